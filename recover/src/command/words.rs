//! How facts look to people.

use std::io::Write;
use std::time::Duration;

use crate::failure::Failure;

/// Prints one line of JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value)
        .map_err(|e| Failure::new(format!("JSON: {e}"), "report it as a defect"))?;
    print(&format!("{line}\n"))
}

/// Prints text. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out
        .write_all(harmless(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            format!("standard output: {e}"),
            "check where it goes",
        )),
        _ => Ok(()),
    }
}

/// Text without what a terminal obeys. Names, titles and messages come from images and vaults.
pub fn harmless(text: &str) -> String {
    let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace(is_command, "\u{fffd}")
}

/// Bytes with a unit, such as `4.0 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} {}", UNITS[0])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A duration with a unit, such as `3.2 s` or `2 h 5 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// Rows in columns as wide as their widest entry.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|entry| entry.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(entry, width)| format!("{entry:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A section for each command below `command`, and for those below these.
fn sections(command: &clap::Command, above: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let shown = |sub: &&clap::Command| sub.get_name() != "help" && !sub.is_hide_set();
    for sub in command.get_subcommands().filter(shown) {
        let title = format!("{above}{}", sub.get_name().to_uppercase());
        let man = clap_mangen::Man::new(sub.clone());
        let mut section = Vec::new();
        man.render_synopsis_section(&mut section)?;
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        page.extend_from_slice(format!(".SH \"COMMAND {title}\"\n").as_bytes());
        let section = String::from_utf8_lossy(&section).replace(".SH ", ".SS ");
        page.extend_from_slice(section.as_bytes());
        sections(sub, &format!("{title} "), page)?;
    }
    Ok(())
}

/// The manual page: one for all commands, each with its options.
pub fn manual(command: clap::Command) -> Result<String, Failure> {
    let failed =
        |e: std::io::Error| Failure::new(format!("manual page: {e}"), "report it as a defect");
    let mut command = command;
    // Fills in the full names of the commands.
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(failed)?;
    sections(&command, "", &mut page).map_err(failed)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the operator's terminal against titles that hold its commands.
    #[test]
    fn nothing_shown_commands_the_terminal() {
        let shown = harmless("Debian\x1b]0;owned\x07 \u{9b}2J\n\tok");
        assert_eq!(shown, "Debian\u{fffd}]0;owned\u{fffd} \u{fffd}2J\n\tok");
    }

    #[test]
    fn amounts_and_times_for_people() {
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(4 << 30), "4.0 GiB");
        assert_eq!(duration(Duration::from_millis(3240)), "3.2 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
    }
}

//! The manual page: one page for all commands, from the same definition as `--help`.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// Writes the page of `command`, with a section of options for each of its subcommands.
pub fn write(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let mut command = command.clone();
    // Fills in the subcommands' full names.
    command.build();
    let man = Man::new(command.clone());
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        if name == "help" {
            continue;
        }
        let section = Man::new(subcommand.clone().disable_help_flag(true));
        let mut text = Vec::new();
        section.render_synopsis_section(&mut text)?;
        section.render_description_section(&mut text)?;
        section.render_options_section(&mut text)?;
        let text = String::from_utf8_lossy(&text)
            .replace(".SH SYNOPSIS", &format!(".SH {}", name.to_uppercase()))
            .replace(".SH DESCRIPTION", ".PP")
            .replace(".SH OPTIONS", ".PP");
        out.write_all(text.as_bytes())?;
    }
    man.render_extra_section(out)?;
    man.render_version_section(out)
}

//! Everything needed to open a tenant's images, on paper: one page of HTML to print, one of text.

use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use relevo_wire::Timestamp;
use relevo_wire::key::KeyFile;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The two pages.
pub struct Paper {
    /// To be printed.
    pub html: Zeroizing<String>,
    /// The same as text, without the QR code.
    pub text: Zeroizing<String>,
}

impl Paper {
    /// The paper of these keys, as they are wrapped.
    pub fn of(file: &KeyFile) -> Result<Self, Failure> {
        let lines = file.lines()?;
        let facts = Facts::of(file, lines.len());
        let text = text(&facts, &lines);
        let html = html(&facts, &lines);
        Ok(Self { html, text })
    }
}

struct Facts {
    tenant: String,
    made: String,
    generations: String,
    opened_by: String,
    warning: &'static str,
    steps: Vec<String>,
    lines: usize,
}

impl Facts {
    fn of(file: &KeyFile, lines: usize) -> Self {
        let numbers: Vec<_> = file.generations().iter().map(|g| g.0.to_string()).collect();
        let (opened_by, warning) = match file {
            KeyFile::Wrapped(wrapped) => (
                wrapped.ways(),
                "This page alone opens nothing. Keep it apart from what opens it.",
            ),
            KeyFile::Open(_) => (
                "nothing further".into(),
                "WHOEVER HAS THIS PAGE READS EVERY IMAGE. Keep it in a safe, away from the site.",
            ),
        };
        Self {
            tenant: file.tenant().to_string(),
            made: Timestamp::now().to_string(),
            generations: numbers.join(", "),
            opened_by,
            warning,
            steps: steps(file),
            lines,
        }
    }
}

/// The procedure, in commands that need nothing but this page, the packs and the program.
fn steps(file: &KeyFile) -> Vec<String> {
    let mut steps = vec![
        "Take any Linux machine with relevo-recover and a copy of the vault's packs (the directory \
         'packs' of the vault, or of any copy of it). No vault, no catalogue and no network is \
         needed."
            .to_string(),
        "Type the numbered lines below into a file paper.txt, or scan the QR code into it. Upper \
         and lower case, blanks and hyphens do not matter; I and L read as 1, O as 0. The last \
         group of each line is its check: a mistake is reported with its line."
            .to_string(),
        "relevo-recover keys from-paper paper.txt --out opening-keys.toml".to_string(),
    ];
    let mut unlock = "";
    if let KeyFile::Wrapped(wrapped) = file {
        if !wrapped.recovery_keys().is_empty() {
            steps.push(
                "Collect the recovery key, or as many of its shares as they say it takes, and type \
                 their lines into a file recovery.txt, one page after the other."
                    .to_string(),
            );
            unlock = " --recovery-key-file recovery.txt";
        } else {
            steps.push("Have the passphrase ready: it is asked for.".to_string());
        }
    }
    let with = format!("--packs PACKS --keys opening-keys.toml{unlock}");
    steps.push(format!("relevo-recover list {with}"));
    steps.push(format!(
        "relevo-recover restore SERVER --to disk.raw {with}     (or --to /dev/sdX, a new disk)"
    ));
    steps
        .push("Delete paper.txt, recovery.txt and opening-keys.toml when all is done.".to_string());
    steps
}

fn text(facts: &Facts, lines: &[String]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!(
        "RELEVO KEY PAPER\n\ntenant        {}\nprinted       {}\ngenerations   {}\nopened by     {}\n\n{}\n\n\
         To recover a server with nothing but this page{} and the packs:\n\n",
        facts.tenant,
        facts.made,
        facts.generations,
        facts.opened_by,
        facts.warning,
        if facts.opened_by == "nothing further" {
            ""
        } else {
            ", what opens it"
        },
    ));
    for (number, step) in facts.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", number + 1));
    }
    text.push_str("\n-----BEGIN RELEVO KEY PAPER-----\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("-----END RELEVO KEY PAPER-----\n");
    text
}

fn html(facts: &Facts, lines: &[String]) -> Zeroizing<String> {
    let steps: Vec<String> = facts.steps.iter().map(|step| step_html(step)).collect();
    // Nothing in it comes from outside: ids, times and base 32.
    Zeroizing::new(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <title>Relevo key paper, tenant {tenant}</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>Relevo key paper</h1>\n\
         <table><tr><th>tenant<td><code>{tenant}</code><tr><th>printed<td>{made}\
         <tr><th>generations<td>{generations}<tr><th>opened by<td>{opened_by}</table>\n\
         <p class=\"warning\">{warning}</p>\n\
         <h2>To recover a server</h2>\n<ol>{steps}</ol>\n\
         <h2>The keys, in {count} lines</h2>\n<div class=\"keys\"><pre>{lines}</pre>{qr}</div>\n\
         </body></html>\n",
        tenant = facts.tenant,
        made = facts.made,
        generations = facts.generations,
        opened_by = facts.opened_by,
        warning = facts.warning,
        steps = steps.concat(),
        count = facts.lines,
        lines = lines.join("\n"),
        qr = qr(lines),
    ))
}

fn step_html(step: &str) -> String {
    match step.starts_with("relevo-recover") {
        true => format!("<li><code>{step}</code>"),
        false => format!("<li>{step}"),
    }
}

/// The lines as a QR code: `/` for line breaks, so that its compact alphabet suffices. Nothing when
/// there are more than a code holds: then they are typed.
fn qr(lines: &[String]) -> String {
    let one_blank = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (number, rest) = words.split_first().unwrap_or((&"", &[]));
        format!("{number} {}", rest.concat())
    };
    let content: Vec<String> = lines.iter().map(one_blank).collect();
    let content = Zeroizing::new(content.join("/"));
    match QrCode::with_error_correction_level(content.as_bytes(), EcLevel::M) {
        Ok(code) => {
            let mut renderer = code.render::<svg::Color<'_>>();
            let svg = renderer.min_dimensions(320, 320).build();
            // The declaration of an XML file has no place inside a page.
            svg.split_once("?>")
                .map_or(svg.clone(), |(_, svg)| svg.to_string())
        }
        Err(_) => "<p>(too many generations for a QR code: type the lines)</p>".into(),
    }
}

const STYLE: &str = "\
@page{size:A4;margin:15mm}body{font:10.5pt/1.35 sans-serif;color:#000;max-width:180mm;margin:auto}\
h1{font-size:18pt;margin:0 0 3mm}h2{font-size:12pt;margin:4mm 0 1mm}th{text-align:left;\
padding-right:6mm;font-weight:normal;color:#444}ol{margin:0;padding-left:6mm}li{margin:1mm 0}\
code,pre{font-family:'DejaVu Sans Mono',monospace;font-size:9.5pt}pre{line-height:1.5;margin:0}\
.warning{border:1.5pt solid #000;padding:2mm 3mm;font-weight:bold}\
.keys{display:flex;gap:8mm;align-items:flex-start;flex-wrap:wrap}svg{width:60mm;height:60mm}\
li,.keys pre{break-inside:avoid}";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::key::{OpeningKeys, RecoveryKey, WrappedKeys, Wrapping, typed};

    fn wrapped() -> KeyFile {
        let keys = OpeningKeys::generate().unwrap();
        let recovery = RecoveryKey::generate().public().unwrap();
        KeyFile::Wrapped(WrappedKeys::wrap(&keys, &[Wrapping::Recovery(recovery)]).unwrap())
    }

    /// Guards: what is printed reads back, from the text as a whole and from the lines in the page.
    #[test]
    fn both_pages_hold_the_same_lines_which_read_back() {
        let file = wrapped();
        let paper = Paper::of(&file).unwrap();
        let typed = typed::read(&paper.text).unwrap();
        assert_eq!(
            KeyFile::from_typed(&typed[0]).unwrap().tenant(),
            file.tenant()
        );
        for line in file.lines().unwrap() {
            assert!(paper.html.contains(&line) && paper.text.contains(&line));
        }
        assert!(paper.html.contains("<svg"), "no QR code");
        assert!(paper.text.contains("--recovery-key-file"));
        assert!(file.lines().unwrap().len() <= 20, "more than anybody types");
    }

    /// Guards against an unwrapped paper that does not say what it is.
    #[test]
    fn an_unwrapped_paper_warns() {
        let file = KeyFile::Open(OpeningKeys::generate().unwrap());
        let paper = Paper::of(&file).unwrap();
        assert!(paper.text.contains("WHOEVER HAS THIS PAGE"));
        assert!(!paper.text.contains("--recovery-key-file"));
        assert!(!Paper::of(&wrapped()).unwrap().text.contains("WHOEVER"));
    }

    /// Guards the QR code's content, which a scanner gives back in one line.
    #[test]
    fn what_a_scanner_gives_reads_back() {
        let file = wrapped();
        let scanned: Vec<String> = file
            .lines()
            .unwrap()
            .iter()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .map(|words| format!("{} {}", words[0], words[1..].concat()))
            .collect();
        let typed = typed::read(&scanned.join("/")).unwrap();
        assert_eq!(
            KeyFile::from_typed(&typed[0]).unwrap().tenant(),
            file.tenant()
        );
    }
}

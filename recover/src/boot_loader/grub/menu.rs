//! Choosing the default entry, and running it.

use super::Loaded;
use super::shell::{MenuItem, MenuKind, Request, Shell};

/// As deep as submenus are followed.
const MAX_LEVELS: usize = 8;

/// Boots the entry that the variable `default` names, as GRUB does when its time-out runs off.
pub(super) fn boot_default(shell: &mut Shell<'_>) -> Result<Loaded, String> {
    let wanted = shell.variable("default").unwrap_or_default();
    let mut notes = Vec::new();
    let mut menu = std::mem::take(&mut shell.menu);
    if menu.is_empty() {
        // A script may load a kernel without any menu, or only point to another file.
        return finish(shell, "without a menu".into(), notes);
    }
    let mut rest = wanted.clone();
    for _ in 0..MAX_LEVELS {
        let (head, tail) = split_level(&rest);
        let item = match find(&menu, &head) {
            Some(item) => item,
            None => {
                notes.push(format!(
                    "the default \"{wanted}\" names no entry: GRUB then takes the first"
                ));
                menu.first().cloned().ok_or("a submenu is empty")?
            }
        };
        match item.kind {
            MenuKind::Submenu(body, arguments) => {
                shell.menu.clear();
                shell.run_with(&body, arguments)?;
                menu = std::mem::take(&mut shell.menu);
                if menu.is_empty() {
                    return Err(format!("the submenu \"{}\" is empty", item.title));
                }
                rest = tail;
            }
            MenuKind::Entry(body, arguments) => {
                shell.request = Request::default();
                shell.run_with(&body, arguments)?;
                return finish(shell, item.title, notes);
            }
            MenuKind::BootLoaderEntry(entry) => {
                let arguments = shell.expand_text(&entry.options)?.join(" ");
                let initrds = shell.expand_text(&entry.initrds.join(" "))?;
                let device = shell
                    .variable("boot")
                    .or_else(|| shell.variable("root"))
                    .unwrap_or_default();
                return Ok(Loaded {
                    title: item.title,
                    device: device.trim_matches(['(', ')']).to_owned(),
                    kernel: entry.linux,
                    initrds,
                    arguments,
                    notes,
                });
            }
        }
    }
    Err(format!("submenus are nested deeper than {MAX_LEVELS}"))
}

fn finish(shell: &mut Shell<'_>, title: String, notes: Vec<String>) -> Result<Loaded, String> {
    let request = std::mem::take(&mut shell.request);
    let Some((kernel, arguments)) = request.linux else {
        return Err(match request.foreign {
            Some(command) => {
                format!("the default entry \"{title}\" starts no Linux kernel but runs `{command}`")
            }
            None => format!("the default entry \"{title}\" loads no kernel"),
        });
    };
    let (device, kernel) = shell.split(&kernel);
    let initrds = request
        .initrds
        .iter()
        .map(|path| shell.split(path).1.to_owned())
        .collect();
    Ok(Loaded {
        title,
        device,
        kernel: kernel.to_owned(),
        initrds,
        arguments: arguments.join(" "),
        notes,
    })
}

/// Splits `1>2` at its first single `>`; `>>` stands for the character.
fn split_level(wanted: &str) -> (String, String) {
    let mut head = String::new();
    let mut chars = wanted.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '>' {
            if chars.peek() == Some(&'>') {
                chars.next();
            } else {
                return (head, chars.collect());
            }
        }
        head.push(c);
    }
    (head, String::new())
}

/// By number, else by id or title. No name at all means the first entry.
fn find(menu: &[MenuItem], name: &str) -> Option<MenuItem> {
    if name.is_empty() {
        return menu.first().cloned();
    }
    match name.trim().parse::<usize>() {
        Ok(index) => menu.get(index).cloned(),
        Err(_) => menu
            .iter()
            .find(|item| item.id.as_deref() == Some(name) || item.title == name)
            .cloned(),
    }
}

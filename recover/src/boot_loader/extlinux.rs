//! extlinux and syslinux configuration (syslinux.zytor.com, "SYSLINUX config file").

use std::collections::BTreeMap;

use super::Choice;
use crate::filesystem::tree::{Place, Tree};
use crate::filesystem::volume::Volumes;

/// Where the configuration lies, seen from the running system.
pub const CONFIGS: &[&str] = &[
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux.cfg",
];

const MAX_INCLUDES: usize = 16;

#[derive(Default)]
struct Menu {
    default: Option<String>,
    menu_default: Option<String>,
    /// `append` outside any label, which labels without their own inherit.
    append: String,
    order: Vec<String>,
    labels: BTreeMap<String, Label>,
}

#[derive(Default)]
struct Label {
    title: Option<String>,
    kernel: Option<String>,
    append: Option<String>,
    initrds: Vec<String>,
}

/// Reads the default entry.
pub fn read(_: &Volumes, system: &Tree, place: &Place, path: &str) -> Result<Choice, String> {
    let directory = path.rsplit_once('/').map_or("", |(d, _)| d);
    let mut menu = Menu::default();
    let mut includes = 0;
    let mut current = None;
    parse(
        system,
        directory,
        path,
        &mut menu,
        &mut current,
        &mut includes,
    );

    let name = menu
        .menu_default
        .as_ref()
        .or(menu.default.as_ref())
        .filter(|name| menu.labels.contains_key(*name))
        .or_else(|| menu.order.first())
        .ok_or("it has no label")?;
    let label = menu.labels.get(name).ok_or("it has no label")?;
    let kernel = label
        .kernel
        .as_deref()
        .ok_or_else(|| format!("label {name} names no kernel"))?;
    let mut initrds = label.initrds.clone();
    let append = label.append.as_deref().unwrap_or(&menu.append);
    let mut arguments = Vec::new();
    for word in append.split_whitespace().filter(|w| *w != "-") {
        match word.strip_prefix("initrd=") {
            Some(files) => initrds.extend(files.split(',').map(str::to_owned)),
            None => arguments.push(word),
        }
    }
    // A relative path means the configuration's directory, as the loader sees its own volume.
    let inner = place.path.rsplit_once('/').map_or("", |(d, _)| d);
    let absolute = |p: &str| {
        if p.starts_with('/') {
            p.to_owned()
        } else {
            normal(&format!("{inner}/{p}"))
        }
    };
    Ok(Choice {
        title: label.title.clone().unwrap_or_else(|| name.clone()),
        volume: Some(place.volume),
        kernel: absolute(kernel),
        initrds: initrds.iter().map(|i| absolute(i)).collect(),
        arguments: arguments.join(" "),
        notes: Vec::new(),
    })
}

fn parse(
    system: &Tree,
    directory: &str,
    path: &str,
    menu: &mut Menu,
    current: &mut Option<String>,
    includes: &mut usize,
) {
    let Some(text) = system.text(path) else {
        return;
    };
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (key, value) = (key.to_ascii_lowercase(), value.trim());
        if key == "menu" {
            let (sub, rest) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
            match sub.to_ascii_lowercase().as_str() {
                "default" => menu.menu_default = current.clone(),
                "label" => {
                    if let Some(label) = current.as_ref().and_then(|c| menu.labels.get_mut(c)) {
                        label.title = Some(rest.replace('^', "").trim().to_owned());
                    }
                }
                "include" => follow(system, directory, rest, menu, current, includes),
                _ => {}
            }
            continue;
        }
        if key == "include" {
            follow(system, directory, value, menu, current, includes);
            continue;
        }
        if key == "label" {
            *current = Some(value.into());
            menu.order.push(value.into());
            menu.labels.insert(value.into(), Label::default());
            continue;
        }
        if key == "default" {
            menu.default = Some(value.into());
            continue;
        }
        match current.as_ref().and_then(|c| menu.labels.get_mut(c)) {
            Some(label) => match key.as_str() {
                "kernel" | "linux" => label.kernel = Some(value.into()),
                "append" => label.append = Some(value.into()),
                "initrd" => label
                    .initrds
                    .extend(value.split(',').map(|f| f.trim().to_owned())),
                _ => {}
            },
            None if key == "append" => menu.append = value.into(),
            None => {}
        }
    }
}

fn follow(
    system: &Tree,
    directory: &str,
    file: &str,
    menu: &mut Menu,
    current: &mut Option<String>,
    includes: &mut usize,
) {
    *includes += 1;
    if *includes <= MAX_INCLUDES {
        parse(
            system,
            directory,
            &normal(&format!("{directory}/{file}")),
            menu,
            current,
            includes,
        );
    }
}

/// Removes `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

//! Guards: the menus that distributions generate lead to the entry that GRUB itself would boot.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::boot_loader::bls;

#[derive(Default)]
struct Machine {
    files: HashMap<(&'static str, &'static str), String>,
    uuids: HashMap<&'static str, &'static str>,
    entries: Vec<bls::Entry>,
}

impl World for Machine {
    fn read(&self, device: &str, path: &str) -> Option<Vec<u8>> {
        self.files
            .iter()
            .find(|((d, p), _)| *d == device && *p == path)
            .map(|(_, c)| c.clone().into_bytes())
    }
    fn is_directory(&self, device: &str, path: &str) -> Option<bool> {
        self.read(device, path).map(|_| false)
    }
    fn by_uuid(&self, uuid: &str) -> Option<String> {
        self.uuids.get(uuid).map(|d| (*d).to_owned())
    }
    fn by_label(&self, _: &str) -> Option<String> {
        None
    }
    fn by_file(&self, path: &str) -> Option<String> {
        self.files
            .keys()
            .find(|(_, p)| *p == path)
            .map(|(d, _)| (*d).to_owned())
    }
    fn entries(&self, device: &str) -> Vec<bls::Entry> {
        if device == "hd0,gpt2" {
            self.entries.clone()
        } else {
            Vec::new()
        }
    }
    fn efi(&self) -> bool {
        false
    }
}

const DEBIAN: &str = include_str!("fixtures/debian12.cfg");
const RHEL: &str = include_str!("fixtures/rhel9.cfg");

fn env(lines: &str) -> String {
    let mut block = format!("# GRUB Environment Block\n{lines}");
    while block.len() < 1024 {
        block.push('#');
    }
    block
}

fn debian(grubenv: Option<&str>) -> Loaded {
    let mut machine = Machine::default();
    machine
        .uuids
        .insert("3bd1a4cf-0d60-4c5c-a5d7-7f0c0f0b8a11", "hd0,gpt1");
    if let Some(lines) = grubenv {
        machine
            .files
            .insert(("hd0,gpt1", "/boot/grub/grubenv"), env(lines));
    }
    default_entry(DEBIAN, "hd0,gpt1", "/boot/grub", &machine).unwrap()
}

#[test]
fn debian_boots_its_first_entry() {
    let loaded = debian(None);
    assert_eq!(loaded.title, "Debian GNU/Linux");
    assert_eq!(loaded.device, "hd0,gpt1");
    assert_eq!(loaded.kernel, "/boot/vmlinuz-6.1.0-18-amd64");
    assert_eq!(loaded.initrds, ["/boot/initrd.img-6.1.0-18-amd64"]);
    assert_eq!(
        loaded.arguments,
        "root=UUID=3bd1a4cf-0d60-4c5c-a5d7-7f0c0f0b8a11 ro quiet"
    );
}

#[test]
fn a_saved_default_inside_the_submenu_is_followed() {
    for saved in [
        "1>2",
        "gnulinux-advanced-3bd1a4cf>gnulinux-6.1.0-17-amd64-advanced-3bd1a4cf",
        "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-17-amd64",
    ] {
        let loaded = debian(Some(&format!("saved_entry={saved}\n")));
        assert_eq!(
            loaded.kernel, "/boot/vmlinuz-6.1.0-17-amd64",
            "saved_entry={saved}"
        );
    }
}

#[test]
fn a_one_time_choice_goes_before_the_saved_default() {
    let loaded = debian(Some("saved_entry=1>2\nnext_entry=1>1\n"));
    assert!(loaded.arguments.contains("single"), "{loaded:?}");
}

#[test]
fn a_default_that_names_nothing_falls_back_to_the_first_entry_and_says_so() {
    let loaded = debian(Some("saved_entry=gone\n"));
    assert_eq!(loaded.kernel, "/boot/vmlinuz-6.1.0-18-amd64");
    assert!(loaded.notes[0].contains("gone"));
}

fn rhel(grubenv: &str) -> Loaded {
    let mut machine = Machine::default();
    machine
        .uuids
        .insert("b5f4b7b2-9f5e-4d58-8dc6-9e3c9b7f3a01", "hd0,gpt2");
    machine
        .files
        .insert(("hd0,gpt2", "/grub2/grubenv"), env(grubenv));
    for version in [
        "5.14.0-427.13.1.el9_4.x86_64",
        "5.14.0-362.8.1.el9_3.x86_64",
    ] {
        let text = format!(
            "title Red Hat Enterprise Linux ({version}) 9.4 (Plow)\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img $tuned_initrd\noptions root=UUID=77b1 ro crashkernel=1G-4G:192M $kernelopts $tuned_params\ngrub_users $grub_users\n"
        );
        machine
            .entries
            .push(bls::parse(&format!("0123456789abcdef-{version}"), &text));
    }
    default_entry(RHEL, "hd0,gpt2", "/grub2", &machine).unwrap()
}

#[test]
fn rhel_reads_boot_loader_entries_with_grubs_variables() {
    let loaded = rhel("kernelopts=audit=1 net.ifnames=0\n");
    assert_eq!(loaded.kernel, "/vmlinuz-5.14.0-427.13.1.el9_4.x86_64");
    assert_eq!(
        loaded.initrds,
        ["/initramfs-5.14.0-427.13.1.el9_4.x86_64.img"]
    );
    assert_eq!(
        loaded.arguments,
        "root=UUID=77b1 ro crashkernel=1G-4G:192M audit=1 net.ifnames=0"
    );
    assert_eq!(loaded.device, "hd0,gpt2");
}

#[test]
fn rhel_honours_the_saved_entry() {
    let loaded = rhel("saved_entry=0123456789abcdef-5.14.0-362.8.1.el9_3.x86_64\n");
    assert_eq!(loaded.kernel, "/vmlinuz-5.14.0-362.8.1.el9_3.x86_64");
}

#[test]
fn a_separate_boot_partition_is_found_by_its_uuid() {
    let mut machine = Machine::default();
    machine.uuids.insert("aaaa", "hd1,msdos1");
    let script = "menuentry 'x' {\n set root='hd0,msdos1'\n search --no-floppy --fs-uuid --set=root aaaa\n linux\t/vmlinuz-1 root=/dev/mapper/vg-root ro\n initrd /ucode.img /initrd-1\n}\n";
    let loaded = default_entry(script, "hd0,msdos1", "/grub", &machine).unwrap();
    assert_eq!(loaded.device, "hd1,msdos1");
    assert_eq!(loaded.initrds, ["/ucode.img", "/initrd-1"]);
}

#[test]
fn a_default_that_is_no_linux_is_told() {
    let script = "menuentry 'Windows' { chainloader +1\n }\n";
    let error = default_entry(script, "hd0", "/grub", &Machine::default()).unwrap_err();
    assert!(
        error.contains("Windows") && error.contains("chainloader"),
        "{error}"
    );
}

#[test]
fn endless_scripts_end() {
    for script in [
        "while true; do true; done",
        "function f { f; }\nf",
        "set a=xxxxxxxx\nwhile true; do set a=$a$a$a; done",
        "until false; do set b=1; done",
    ] {
        default_entry(script, "hd0", "/grub", &Machine::default()).unwrap_err();
    }
    let nested = "if true; then ".repeat(500);
    default_entry(&nested, "hd0", "/grub", &Machine::default()).unwrap_err();
    let _ = default_entry(&"! ".repeat(100_000), "hd0", "/grub", &Machine::default());
}

/// Guards memory and time against scripts that are short but make much text.
#[test]
fn scripts_that_multiply_text_end() {
    let long = format!("set a={}\n", "x".repeat(60_000));
    let many = format!("{long}echo {}", "$a".repeat(100_000));
    let doubling = "function f { f $@ $@; }\nf x x x x";
    let kept: String = (0..10_000).map(|i| format!("set b{i}=$a\n")).collect();
    for script in [many.as_str(), doubling, &format!("{long}{kept}")] {
        let error = default_entry(script, "hd0", "/grub", &Machine::default()).unwrap_err();
        assert!(error.contains("bytes of text"), "{error}");
    }
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,300}") {
        let _ = default_entry(&text, "hd0", "/grub", &Machine::default());
    }

    #[test]
    fn random_scripts_never_panic(words in proptest::collection::vec(
        prop::sample::select(vec!["if", "then", "fi", "else", "elif", "menuentry", "submenu", "{", "}", "'a'", "\"$x\"", "$1",
            "${", "}", "\n", ";", "[", "]", "test", "-f", "!", "(", ")", "set", "a=b", "default=0>0", "for", "in", "do", "done", "function", "f",
            "linux", "/k", "initrd", "search", "--set", "load_env", "blscfg", "source", "\\", "'", "\"", "#", "-o", "-a", "="]), 0..60)) {
        let _ = default_entry(&words.join(" "), "hd0", "/grub", &Machine::default());
    }
}

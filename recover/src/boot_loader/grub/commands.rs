//! The commands that matter to what is booted; those that draw or load modules do nothing.

use super::shell::{MenuItem, MenuKind, Shell};
use super::syntax::{self, Block};
use super::{environment, test_command};

/// Longest value of a variable, so that `set a=$a$a` ends.
const MAX_VALUE: usize = 64 * 1024;
/// Commands that look at volumes, and what a look counts as, in bytes of text.
const LOOKS: &[&str] = &[
    "[",
    "test",
    "search",
    "search.fs_uuid",
    "search.fs_label",
    "search.file",
    "load_env",
    "source",
    ".",
    "configfile",
    "blscfg",
];
const LOOK: usize = 4096;

impl Shell<'_> {
    pub(super) fn command(
        &mut self,
        words: &[String],
        block: Option<&Block>,
    ) -> Result<bool, String> {
        let negations = words.iter().take_while(|w| *w == "!").count();
        let success = self.plain_command(&words[negations..], block)?;
        Ok(success == (negations % 2 == 0))
    }

    fn plain_command(&mut self, words: &[String], block: Option<&Block>) -> Result<bool, String> {
        let Some((name, args)) = words.split_first() else {
            return Ok(true);
        };
        if LOOKS.contains(&name.as_str()) {
            self.charge(LOOK)?;
        }
        if let Some(body) = self.functions.get(name).cloned() {
            return self.run_with(&body, args.to_vec());
        }
        if args.is_empty()
            && let Some((variable, value)) = name.split_once('=')
            && !variable.is_empty()
        {
            self.assign(variable, value)?;
            return Ok(true);
        }
        match name.as_str() {
            "[" => {
                let inner = if args.last().is_some_and(|a| a == "]") {
                    &args[..args.len() - 1]
                } else {
                    args
                };
                Ok(test_command::evaluate(self, inner))
            }
            "test" => Ok(test_command::evaluate(self, args)),
            "set" | "export" => {
                for (variable, value) in args.iter().filter_map(|a| a.split_once('=')) {
                    self.assign(variable, value)?;
                }
                Ok(true)
            }
            "unset" => {
                for variable in args {
                    self.variables.remove(variable);
                }
                Ok(true)
            }
            "menuentry" | "submenu" => {
                if let Some(body) = block {
                    self.add_to_menu(name == "submenu", args, body);
                }
                Ok(true)
            }
            "blscfg" => {
                let device = self
                    .variable("boot")
                    .or_else(|| self.variable("root"))
                    .unwrap_or_default();
                for entry in self.world.entries(device.trim_matches(['(', ')'])) {
                    self.menu.push(MenuItem {
                        title: entry.title.clone(),
                        id: Some(entry.id.clone()),
                        kind: MenuKind::BootLoaderEntry(entry),
                    });
                }
                Ok(true)
            }
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" => {
                Ok(self.search(name, args))
            }
            "load_env" => self.load_env(args),
            "source" | "." | "configfile" => {
                let Some(content) = args.first().and_then(|path| self.read(path)) else {
                    return Ok(false);
                };
                self.charge(content.len())?;
                let block = syntax::parse(&String::from_utf8_lossy(&content))?;
                self.run(&block)
            }
            "linux" | "linux16" | "linuxefi" => {
                if let Some((kernel, arguments)) = args.split_first() {
                    self.request.linux = Some((self.pinned(kernel), arguments.to_vec()));
                }
                Ok(true)
            }
            "initrd" | "initrd16" | "initrdefi" => {
                self.request.initrds = args
                    .iter()
                    .filter(|a| !a.starts_with("--"))
                    .map(|a| self.pinned(a))
                    .collect();
                Ok(true)
            }
            "chainloader" | "multiboot" | "multiboot2" | "xen_hypervisor" | "kfreebsd"
            | "ntldr" | "kopenbsd" | "uki" | "fwsetup" | "exit" | "reboot" | "halt" => {
                self.request.foreign.get_or_insert_with(|| words.join(" "));
                Ok(true)
            }
            // Commands that succeed on any machine but change nothing here.
            "insmod" | "true" | "save_env" | "terminal_output" | "terminal_input" | "terminal"
            | "serial" | "echo" | "clear" | "play" | "rmmod" | "gfxmode" | "increment"
            | "normal" => Ok(true),
            // All else fails, as a command that is not there does: `false`, `loadfont`, `keystatus`, `cpuid`, …
            _ => Ok(false),
        }
    }

    pub(super) fn assign(&mut self, variable: &str, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE {
            return Err(format!(
                "the variable {variable} grows beyond {MAX_VALUE} bytes"
            ));
        }
        self.variables.insert(variable.to_owned(), value.to_owned());
        Ok(())
    }

    fn add_to_menu(&mut self, submenu: bool, args: &[String], body: &Block) {
        let mut titles = Vec::new();
        let mut id = None;
        let mut words = args.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                "--unrestricted" => {}
                word if word.starts_with("--id=") => {
                    id = word.strip_prefix("--id=").map(str::to_owned)
                }
                word if word.starts_with("--") => {}
                word => titles.push(word.to_owned()),
            }
        }
        let title = titles.first().cloned().unwrap_or_default();
        let body = body.clone();
        let kind = if submenu {
            MenuKind::Submenu(body, titles)
        } else {
            MenuKind::Entry(body, titles)
        };
        self.menu.push(MenuItem { title, id, kind });
    }

    fn search(&mut self, name: &str, args: &[String]) -> bool {
        let mut variable = None;
        let mut names = Vec::new();
        let mut how = name.strip_prefix("search.").unwrap_or("file").to_owned();
        for arg in args {
            match arg.as_str() {
                "--fs-uuid" | "-u" => how = "fs_uuid".into(),
                "--label" | "-l" | "--fs-label" => how = "fs_label".into(),
                "--file" | "-f" => how = "file".into(),
                "--set" | "-s" => variable = Some("root".to_owned()),
                arg if arg.starts_with("--set=") => {
                    variable = arg.strip_prefix("--set=").map(str::to_owned)
                }
                arg if arg.starts_with('-') => {}
                arg => names.push(arg),
            }
        }
        // The short form is `search.fs_uuid UUID VARIABLE [HINT…]`.
        if name.starts_with("search.") {
            variable = names.get(1).map(|v| (*v).to_owned());
        }
        let Some(wanted) = names.first() else {
            return false;
        };
        let found = match how.as_str() {
            "fs_uuid" => self.world.by_uuid(wanted),
            "fs_label" => self.world.by_label(wanted),
            _ => self.world.by_file(wanted),
        };
        match (found, variable) {
            (Some(device), Some(variable)) => {
                self.variables.insert(variable, device);
                true
            }
            (found, _) => found.is_some(),
        }
    }

    fn load_env(&mut self, args: &[String]) -> Result<bool, String> {
        let mut file =
            "${prefix}/grubenv".replace("${prefix}", &self.variable("prefix").unwrap_or_default());
        let mut only = Vec::new();
        let mut words = args.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" | "--file" => file = words.next().cloned().unwrap_or_default(),
                word if word.starts_with("--file=") => {
                    file = word.trim_start_matches("--file=").to_owned()
                }
                word if word.starts_with('-') => {}
                word => only.push(word.to_owned()),
            }
        }
        let Some(block) = self.read(&file) else {
            return Ok(false);
        };
        self.charge(block.len())?;
        for (key, value) in environment::parse(&block) {
            if only.is_empty() || only.contains(&key) {
                self.variables.insert(key, value);
            }
        }
        Ok(true)
    }
}

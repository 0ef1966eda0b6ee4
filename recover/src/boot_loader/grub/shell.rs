//! Runs the statements of a script: variables, functions, and the commands that matter.

use std::collections::HashMap;

use super::syntax::{self, Block, Piece, Statement, Word};
use super::{World, environment, test_command};

/// Commands run before a script is taken for endless: real menus need some hundreds.
const MAX_STEPS: u32 = 200_000;
const MAX_DEPTH: u32 = 48;
/// Longest value of a variable, so that `set a=$a$a` ends.
const MAX_VALUE: usize = 64 * 1024;

/// An entry of the menu.
#[derive(Debug, Clone)]
pub(super) struct MenuItem {
    pub(super) title: String,
    pub(super) id: Option<String>,
    pub(super) kind: MenuKind,
}

#[derive(Debug, Clone)]
pub(super) enum MenuKind {
    Entry(Block, Vec<String>),
    Submenu(Block, Vec<String>),
    BootLoaderEntry(crate::boot_loader::bls::Entry),
}

/// What the commands of an entry asked to load.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) linux: Option<(String, Vec<String>)>,
    pub(super) initrds: Vec<String>,
    /// A command that hands over to something that is not a Linux kernel.
    pub(super) foreign: Option<String>,
}

pub(super) struct Shell<'w> {
    world: &'w dyn World,
    pub(super) variables: HashMap<String, String>,
    functions: HashMap<String, Block>,
    arguments: Vec<String>,
    pub(super) menu: Vec<MenuItem>,
    pub(super) request: Request,
    steps: u32,
    depth: u32,
}

impl<'w> Shell<'w> {
    pub(super) fn new(world: &'w dyn World, device: &str, directory: &str) -> Self {
        let efi = world.efi();
        let features = [
            "menuentry_id",
            "default_font_path",
            "all_video_module",
            "platform_search_hint",
            "timeout_style",
            "chainloader_bpb",
            "ntldr",
            "200_final",
            "nativedisk_cmd",
        ];
        let mut variables: HashMap<String, String> = features
            .iter()
            .map(|f| (format!("feature_{f}"), "y".to_owned()))
            .collect();
        for (name, value) in [
            ("root", device.to_owned()),
            ("prefix", format!("({device}){directory}")),
            ("grub_platform", if efi { "efi" } else { "pc" }.to_owned()),
            ("grub_cpu", if efi { "x86_64" } else { "i386" }.to_owned()),
        ] {
            variables.insert(name.to_owned(), value);
        }
        Self {
            world,
            variables,
            functions: HashMap::new(),
            arguments: Vec::new(),
            menu: Vec::new(),
            request: Request::default(),
            steps: 0,
            depth: 0,
        }
    }

    /// Runs a block; the result is its last command's success.
    pub(super) fn run(&mut self, block: &Block) -> Result<bool, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "functions or files call each other deeper than {MAX_DEPTH}"
            ));
        }
        let mut success = true;
        for statement in block.iter() {
            success = self.statement(statement)?;
        }
        self.depth -= 1;
        Ok(success)
    }

    /// Runs a block with its own positional arguments (`$1`, …).
    pub(super) fn run_with(
        &mut self,
        block: &Block,
        arguments: Vec<String>,
    ) -> Result<bool, String> {
        let outer = std::mem::replace(&mut self.arguments, arguments);
        let result = self.run(block);
        self.arguments = outer;
        result
    }

    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(format!("it did not end after {MAX_STEPS} commands"));
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Result<bool, String> {
        self.step()?;
        match statement {
            Statement::Command(words, block) => {
                let words = self.expand_all(words);
                self.command(&words, block.as_ref())
            }
            Statement::If {
                branches,
                otherwise,
            } => {
                for (condition, body) in branches {
                    if self.run(condition)? {
                        return self.run(body);
                    }
                }
                self.run(otherwise)
            }
            Statement::For { name, words, body } => {
                let mut success = true;
                for value in self.expand_all(words) {
                    self.assign(name, &value)?;
                    success = self.run(body)?;
                }
                Ok(success)
            }
            Statement::While {
                condition,
                body,
                until,
            } => {
                while self.run(condition)? != *until {
                    self.step()?;
                    self.run(body)?;
                }
                Ok(true)
            }
            Statement::Function { name, body } => {
                self.functions.insert(name.clone(), body.clone());
                Ok(true)
            }
        }
    }

    fn command(&mut self, words: &[String], block: Option<&Block>) -> Result<bool, String> {
        let negations = words.iter().take_while(|w| *w == "!").count();
        let success = self.plain_command(&words[negations..], block)?;
        Ok(success == (negations % 2 == 0))
    }

    fn plain_command(&mut self, words: &[String], block: Option<&Block>) -> Result<bool, String> {
        let Some((name, args)) = words.split_first() else {
            return Ok(true);
        };
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
            "load_env" => Ok(self.load_env(args)),
            "source" | "." | "configfile" => {
                let Some(content) = args.first().and_then(|path| self.read(path)) else {
                    return Ok(false);
                };
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

    fn assign(&mut self, variable: &str, value: &str) -> Result<(), String> {
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

    fn load_env(&mut self, args: &[String]) -> bool {
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
            return false;
        };
        for (key, value) in environment::parse(&block) {
            if only.is_empty() || only.contains(&key) {
                self.variables.insert(key, value);
            }
        }
        true
    }

    /// Value of a variable or positional argument.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        match name {
            "@" | "*" => Some(self.arguments.join(" ")),
            "#" => Some(self.arguments.len().to_string()),
            _ => match name.parse::<usize>() {
                Ok(index) => index
                    .checked_sub(1)
                    .and_then(|i| self.arguments.get(i))
                    .cloned(),
                Err(_) => self.variables.get(name).cloned(),
            },
        }
    }

    /// Expands variables in text that is not part of the script, as `blscfg` does with options.
    pub(super) fn expand_text(&self, text: &str) -> Vec<String> {
        text.split_whitespace()
            .flat_map(|word| match word.strip_prefix('$') {
                Some(name) => {
                    let value = self
                        .variable(name.trim_matches(['{', '}']))
                        .unwrap_or_default();
                    value.split_whitespace().map(str::to_owned).collect()
                }
                None => vec![word.to_owned()],
            })
            .collect()
    }

    fn expand_all(&self, words: &[Word]) -> Vec<String> {
        words.iter().flat_map(|word| self.expand(word)).collect()
    }

    fn expand(&self, word: &Word) -> Vec<String> {
        let mut results = Vec::new();
        let mut current: Option<String> = None;
        for piece in word {
            match piece {
                Piece::Text { text, .. } => current.get_or_insert_default().push_str(text),
                Piece::Variable { name, quoted: true } => {
                    current
                        .get_or_insert_default()
                        .push_str(&self.variable(name).unwrap_or_default());
                }
                Piece::Variable {
                    name,
                    quoted: false,
                } => {
                    let value = self.variable(name).unwrap_or_default();
                    for (index, part) in value.split_whitespace().enumerate() {
                        if index > 0 {
                            results.extend(current.take());
                        }
                        current.get_or_insert_default().push_str(part);
                    }
                }
            }
        }
        results.extend(current);
        results
    }

    /// A path with its device: `(hd0,gpt1)/boot/vmlinuz`, so that a later `root` does not change it.
    fn pinned(&self, path: &str) -> String {
        if path.starts_with('(') {
            path.to_owned()
        } else {
            format!("({}){path}", self.root())
        }
    }

    fn root(&self) -> String {
        self.variable("root")
            .unwrap_or_default()
            .trim_matches(['(', ')'])
            .to_owned()
    }

    /// Splits a path into device and path on it.
    pub(super) fn split<'p>(&self, path: &'p str) -> (String, &'p str) {
        match path.strip_prefix('(').and_then(|p| p.split_once(')')) {
            Some((device, path)) => (device.to_owned(), path),
            None => (self.root(), path),
        }
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (device, path) = self.split(path);
        self.world.read(&device, path)
    }

    /// Whether a path exists, and if so whether it is a directory.
    pub(super) fn exists(&self, path: &str) -> Option<bool> {
        let (device, path) = self.split(path);
        self.world.is_directory(&device, path)
    }
}

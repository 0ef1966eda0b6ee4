//! Runs the statements of a script, with bounds on steps, depth and text.

use std::collections::HashMap;

use super::World;
use super::syntax::{Block, Statement};

/// Commands run before a script is taken for endless: real menus need some hundreds.
const MAX_STEPS: u32 = 200_000;
const MAX_DEPTH: u32 = 48;
/// Bytes of text that are made or read in all. Steps alone bound neither: one command may repeat a
/// long variable thousands of times.
const MAX_EFFORT: usize = 64 << 20;

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
    pub(super) world: &'w dyn World,
    pub(super) variables: HashMap<String, String>,
    pub(super) functions: HashMap<String, Block>,
    pub(super) arguments: Vec<String>,
    pub(super) menu: Vec<MenuItem>,
    pub(super) request: Request,
    steps: u32,
    effort: usize,
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
            effort: 0,
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

    /// Counts bytes that are made or read.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.effort = self.effort.saturating_add(bytes);
        if self.effort > MAX_EFFORT {
            return Err(format!("it works on more than {MAX_EFFORT} bytes of text"));
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Result<bool, String> {
        self.step()?;
        match statement {
            Statement::Command(words, block) => {
                let words = self.expand_all(words)?;
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
                for value in self.expand_all(words)? {
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
}

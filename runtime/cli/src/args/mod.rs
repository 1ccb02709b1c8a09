//! Flags, commands, and the structs of arguments that the flags fill.
//!
//! Each command has a struct of arguments. Its table holds one [`Binding`] a flag: the description of the flag, and a
//! function that stores the flag's value in a field of the struct. A misspelt field does not compile. Help, manual pages
//! and completions read the descriptions; [`parse`] checks the command line against them.

mod near;
mod numbers;
mod parse;

use std::path::PathBuf;

pub use near::suggestion;
pub use parse::{Parsed, Value, parse};

use crate::{Globals, Outcome};

/// The kind of value that a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// No value, or `=true`/`=false`.
    Nothing,
    /// A text. The last one given counts.
    Text,
    /// A text. The flag may be repeated.
    Texts,
    /// An integer, decimal or with a prefix of Go (`0x`, `0o`, `0b`, `0`).
    Int,
    /// A decimal integer. The flag may be repeated.
    Ints,
    /// A duration in Go's notation: `5s`, `1m30s`, `250ms`.
    Duration,
}

/// The description of one flag.
pub struct Flag {
    /// The long name, then the short name if there is one, both without dashes.
    pub names: &'static [&'static str],
    /// The kind of value.
    pub takes: Takes,
    /// The default that `--help` shows; empty if there is none.
    pub default: &'static str,
    /// One line for `--help`. An empty line hides the flag.
    pub help: &'static str,
}

impl Flag {
    /// The long name.
    fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

/// Every command, and the program itself, takes this flag.
pub static HELP: Flag = Flag { names: &["help", "h"], takes: Takes::Nothing, default: "", help: "show this help" };

/// Stores a value in the arguments `A`.
enum Setter<A> {
    Switch(fn(&mut A, bool)),
    Text(fn(&mut A, String)),
    /// Gets a duration in nanoseconds.
    Int(fn(&mut A, i64)),
}

/// One flag of a command, bound to the field of the arguments `A` that it sets.
pub struct Binding<A> {
    /// The description.
    pub flag: Flag,
    set: Setter<A>,
}

impl<A> Binding<A> {
    /// A flag that is on or off.
    pub const fn switch(names: &'static [&'static str], help: &'static str, set: fn(&mut A, bool)) -> Self {
        Self::new(names, Takes::Nothing, help, Setter::Switch(set))
    }

    /// A flag with a text.
    pub const fn text(names: &'static [&'static str], help: &'static str, set: fn(&mut A, String)) -> Self {
        Self::new(names, Takes::Text, help, Setter::Text(set))
    }

    /// A flag with a text that may be repeated; `set` is called for each.
    pub const fn texts(names: &'static [&'static str], help: &'static str, set: fn(&mut A, String)) -> Self {
        Self::new(names, Takes::Texts, help, Setter::Text(set))
    }

    /// A flag with an integer.
    pub const fn int(names: &'static [&'static str], help: &'static str, set: fn(&mut A, i64)) -> Self {
        Self::new(names, Takes::Int, help, Setter::Int(set))
    }

    /// A flag with an integer that may be repeated; `set` is called for each.
    pub const fn ints(names: &'static [&'static str], help: &'static str, set: fn(&mut A, i64)) -> Self {
        Self::new(names, Takes::Ints, help, Setter::Int(set))
    }

    /// A flag with a duration; `set` gets nanoseconds.
    pub const fn duration(names: &'static [&'static str], help: &'static str, set: fn(&mut A, i64)) -> Self {
        Self::new(names, Takes::Duration, help, Setter::Int(set))
    }

    /// Adds a default that `--help` shows. The default of the field has to be the same.
    pub const fn or(mut self, default: &'static str) -> Self {
        self.flag.default = default;
        self
    }

    const fn new(names: &'static [&'static str], takes: Takes, help: &'static str, set: Setter<A>) -> Self {
        Self { flag: Flag { names, takes, default: "", help }, set }
    }

    fn set(&self, args: &mut A, value: Value) {
        match (&self.set, value) {
            (Setter::Switch(set), Value::Switch(on)) => set(args, on),
            (Setter::Text(set), Value::Text(text)) => set(args, text),
            (Setter::Int(set), Value::Int(int)) => set(args, int),
            // The constructors pair each kind of value with its setter.
            (Setter::Switch(_) | Setter::Text(_) | Setter::Int(_), _) => {}
        }
    }
}

/// A new `A` with the fields set for which a flag was given.
pub fn fill<A: Default>(bindings: &[Binding<A>], values: Vec<(usize, Value)>) -> A {
    let mut args = A::default();
    for (index, value) in values {
        if let Some(binding) = bindings.get(index) {
            binding.set(&mut args, value);
        }
    }
    args
}

/// The descriptions of the flags of a table.
pub fn flags<A>(bindings: &'static [Binding<A>]) -> Vec<&'static Flag> {
    bindings.iter().map(|binding| &binding.flag).collect()
}

/// The value of a flag for which an empty text means that the flag was not given, as it does to runc.
pub fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// [`non_empty`] for a path.
pub fn path(text: String) -> Option<PathBuf> {
    non_empty(text).map(PathBuf::from)
}

/// The number of operands that a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// A number between the two, both included.
    Between(usize, usize),
}

impl Count {
    /// runc's error about a wrong number of operands, without the program and command that runc puts in front.
    pub fn error(self, given: usize) -> Option<String> {
        let (bound, n) = match self {
            Self::Exactly(n) if given != n => ("exactly", n),
            Self::AtLeast(n) | Self::Between(n, _) if given < n => ("a minimum of", n),
            Self::Between(_, n) if given > n => ("a maximum of", n),
            _ => return None,
        };
        Some(format!("requires {bound} {n} argument(s)"))
    }
}

/// The position of flags on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Flags and operands may be mixed.
    Mixed,
    /// The first operand ends the flags, because the words behind it belong to another program.
    FlagsFirst,
    /// All words are operands, `--help` too, because they belong to another program.
    OtherProgram,
}

/// The program file that a command runs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The program as it was started.
    AsStarted,
    /// A copy that no process can write to, on a kernel that has been checked. A command that makes a process in a
    /// container needs it, because the container could overwrite the program through `/proc/<pid>/exe` (CVE-2019-5736).
    Sealed,
}

/// The name, the grammar and the help of a command.
pub struct Usage {
    /// The word that names the command.
    pub name: &'static str,
    /// One line for the list of commands.
    pub summary: &'static str,
    /// The operands as the usage line shows them. Lines below explain them.
    pub operands: &'static str,
    /// Further paragraphs, or an empty text.
    pub description: &'static str,
    /// The number of operands.
    pub count: Count,
    /// The position of flags.
    pub order: Order,
    /// The program file that the command runs from.
    pub program: Program,
}

impl Usage {
    /// The values that most commands have: `Usage { name: …, ..Usage::DEFAULT }`.
    pub const DEFAULT: Self = Self {
        name: "",
        summary: "",
        operands: "",
        description: "",
        count: Count::Exactly(1),
        order: Order::Mixed,
        program: Program::AsStarted,
    };
}

/// The operands of a command line. Their number has been checked.
pub struct Operands(std::vec::IntoIter<String>);

impl Operands {
    /// The next operand; empty if there is none.
    pub fn one(&mut self) -> String {
        self.0.next().unwrap_or_default()
    }

    /// All further operands.
    pub fn rest(&mut self) -> Vec<String> {
        self.0.by_ref().collect()
    }
}

/// One command with its arguments `A`.
pub struct Command<A: 'static> {
    /// Name, grammar and help.
    pub usage: Usage,
    /// The flags, without `--help`.
    pub flags: &'static [Binding<A>],
    /// Stores the operands.
    pub operands: fn(&mut A, &mut Operands),
    /// Carries the command out.
    pub run: fn(&Globals, A) -> Outcome,
}

impl<A: Default> Command<A> {
    /// The arguments that a checked command line gives.
    fn arguments(&self, parsed: Parsed) -> A {
        let mut args = fill(self.flags, parsed.values);
        (self.operands)(&mut args, &mut Operands(parsed.operands.into_iter()));
        args
    }
}

/// A [`Command`] whose type of arguments is not known.
pub trait AnyCommand: Sync {
    /// Name, grammar and help.
    fn usage(&self) -> &Usage;
    /// The flags, without `--help`.
    fn flags(&self) -> Vec<&'static Flag>;
    /// Carries the command out.
    ///
    /// # Errors
    /// Fails if the command fails.
    fn run(&self, globals: &Globals, parsed: Parsed) -> Outcome;
}

impl<A: Default> AnyCommand for Command<A> {
    fn usage(&self) -> &Usage {
        &self.usage
    }

    fn flags(&self) -> Vec<&'static Flag> {
        flags(self.flags)
    }

    fn run(&self, globals: &Globals, parsed: Parsed) -> Outcome {
        (self.run)(globals, self.arguments(parsed))
    }
}

/// For tests: the arguments of a command for these words.
#[cfg(test)]
pub fn arguments<A: Default>(command: &Command<A>, words: &[&str]) -> A {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    command.arguments(parse(&flags(command.flags), &words, command.usage.order).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_operand_counts_are_worded_as_by_runc() {
        assert_eq!(Count::Exactly(1).error(2).unwrap(), "requires exactly 1 argument(s)");
        assert_eq!(Count::AtLeast(1).error(0).unwrap(), "requires a minimum of 1 argument(s)");
        assert_eq!(Count::Between(1, 2).error(3).unwrap(), "requires a maximum of 2 argument(s)");
        assert_eq!(Count::Between(1, 2).error(0).unwrap(), "requires a minimum of 1 argument(s)");
        assert_eq!(Count::Between(1, 2).error(2), None);
    }
}

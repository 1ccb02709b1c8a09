//! `berth`, a command line that is compatible with runc's.
//!
//! The program reads the global flags ([`globals`]), starts the log, finds the command in [`table::COMMANDS`], reads the
//! flags of the command and runs it. A command calls one operation of the library `berth_runtime`; the library does the
//! work. Flags, output, error texts and exit statuses are those of runc 1.5.1. If the program is started under the name
//! `runc`, its texts call it `runc`.

mod args;
mod commands;
mod console;
mod extra_fds;
mod globals;
mod help;
mod log;
#[cfg(test)]
mod manual;
mod output;
mod sd_notify;
mod signals;
mod stdio;
mod sys;
mod table;

use std::{ffi::OsString, path::Path};

use berth_runtime::Error;

use self::{
    args::{AnyCommand, Order, Parsed, Program, fill, flags, parse, suggestion},
    globals::{GlobalArgs, Globals},
    table::{COMMANDS, GLOBALS},
};

/// The error text and the exit status of a command that has failed.
#[derive(Debug)]
pub struct Failure {
    /// The text for the log and stderr.
    pub message: String,
    /// The exit status.
    pub status: i32,
}

/// The exit status of a command, or its failure.
pub type Outcome = Result<i32, Failure>;

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.into().to_string(), status: 1 }
    }
}

fn main() {
    #[cfg(feature = "weak")]
    weaken();
    let status = run(std::env::args_os().collect()).unwrap_or_else(|failure| {
        log::failed(&failure.message);
        failure.status
    });
    std::process::exit(status);
}

/// Takes out the defences that a test names by the mask in `BERTH_WEAK`.
#[cfg(feature = "weak")]
fn weaken() {
    let mask = std::env::var("BERTH_WEAK").ok().and_then(|mask| mask.parse().ok());
    berth_init::defence::take_out(mask.unwrap_or_default());
}

/// Carries out a command line, `words[0]` being the name of the program.
fn run(words: Vec<OsString>) -> Outcome {
    let words = words.into_iter().enumerate().map(|(n, word)| {
        word.into_string().map_err(|word| Error::invalid(format!("argument {n} is not UTF-8: {}", word.display())))
    });
    let words = words.collect::<Result<Vec<String>, Error>>()?;
    let (argv0, words) = words.split_first().map_or(("berth", words.as_slice()), |(first, rest)| (first, rest));
    let program = if Path::new(argv0).file_name().is_some_and(|name| name == "runc") { "runc" } else { "berth" };

    let Parsed { values, operands, help } = parse(&flags(GLOBALS), words, Order::FlagsFirst)
        .map_err(|error| usage_error(&format!("Incorrect Usage. {error}"), &help::program(program), error))?;
    if help {
        output::print(&help::program(program));
        return Ok(0);
    }
    let args: GlobalArgs = fill(GLOBALS, values);
    if args.version {
        output::print(&help::version(program));
        return Ok(0);
    }
    let globals = Globals::resolve(program, &args)?;
    globals::start_log(&args)?;

    match operands.split_first() {
        Some((name, rest)) if name == "help" || name == "h" => explain(program, rest.first().map(String::as_str)),
        Some((name, words)) => run_command(&globals, argv0, name, words),
        None => explain(program, None),
    }
}

/// Prints the help of one command, or of the program.
fn explain(program: &str, name: Option<&str>) -> Outcome {
    let text = match name {
        None => help::program(program),
        Some(name) => help::command(program, find(name)?),
    };
    output::print(&text);
    Ok(0)
}

/// Finds a command by name. The failure has the text and the status of urfave/cli.
fn find(name: &str) -> Result<&'static dyn AnyCommand, Failure> {
    let command = COMMANDS.iter().find(|command| command.usage().name == name).copied();
    let near = || suggestion(name, "", COMMANDS.iter().map(|command| command.usage().name).chain(["help"]));
    command.ok_or_else(|| Failure { message: format!("No help topic for '{name}'{}", near()), status: 3 })
}

/// Reads the flags of the command `name` and runs it.
fn run_command(globals: &Globals, argv0: &str, name: &str, words: &[String]) -> Outcome {
    let command = find(name)?;
    let usage = command.usage();
    if usage.program == Program::Sealed {
        berth_runtime::sealed::ensure()?;
        berth_runtime::kernel::check()?;
    }
    berth_runtime::own_process::protect()?;
    let help = || help::command(globals.program, command);
    let parsed = parse(&command.flags(), words, usage.order)
        .map_err(|error| usage_error(&format!("Incorrect Usage: {error}"), &help(), error))?;
    if parsed.help {
        output::print(&help());
        return Ok(0);
    }
    if let Some(error) = usage.count.error(parsed.operands.len()) {
        return Err(usage_error("Incorrect Usage.", &help(), format!("{argv0}: \"{name}\" {error}")));
    }
    command.run(globals, parsed)
}

/// Prints `headline` and the help, as urfave/cli does; returns the failure to report.
fn usage_error(headline: &str, help: &str, message: String) -> Failure {
    output::print(&format!("{headline}\n\n{help}"));
    Failure { message, status: 1 }
}

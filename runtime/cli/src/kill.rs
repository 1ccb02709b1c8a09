//! `kill`: sends a signal to a container's process.

use berth_runtime::{Error, Kind, Result, kill};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "kill",
    summary: "kill sends the specified signal (default: SIGTERM) to the container's init process",
    operands: "<container-id> [signal]

Where \"<container-id>\" is the name of the container and \"[signal]\" a signal's
name, with or without SIG, or its number.

EXAMPLE:
       # berth kill ubuntu01 KILL",
    about: "",
    // Hidden, as runc has it: a container without a pid namespace of its own is killed whole anyway.
    flags: &[Flag::switch(&["all", "a"], "")],
    count: Count::Between(1, 2),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let signal = signal(parsed.operand(1))?;
    if !parsed.on("all") {
        kill::kill(&container, signal)?;
        return Ok(0);
    }
    match kill::kill_all(&container, signal) {
        Err(e) if e.kind() == Kind::NotFound => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}

/// The signal of the second operand. A number that is no signal's gets the kernel's answer, in runc's words.
fn signal(text: &str) -> Result<i32> {
    let text = if text.is_empty() { "SIGTERM" } else { text };
    match text.parse::<i64>() {
        Ok(number) => i32::try_from(number)
            .ok()
            .filter(|number| (0..=libc::SIGRTMAX()).contains(number))
            .ok_or_else(|| Error::invalid(format!("unable to signal init: signal {number}: invalid argument"))),
        Err(_) => kill::parse_signal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_numbers_or_are_refused() {
        assert_eq!(signal("").unwrap(), libc::SIGTERM);
        assert_eq!((signal("KILL").unwrap(), signal("0").unwrap(), signal("64").unwrap()), (9, 0, 64));
        for number in ["-1", "65", "4294967305"] {
            let says = format!("unable to signal init: signal {number}: invalid argument");
            assert_eq!(signal(number).unwrap_err().to_string(), says);
        }
        assert_eq!(signal("FOO").unwrap_err().to_string(), "unknown signal \"FOO\"");
    }
}

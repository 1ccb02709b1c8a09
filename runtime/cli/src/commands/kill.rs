//! `kill`: sends a signal to the init process of a container.

use berth_runtime::{Error, Kind, Result, kill};

use super::load;
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Count, Usage},
};

/// The arguments of `kill`.
#[derive(Debug, Default)]
pub struct KillArgs {
    id: String,
    signal: String,
    all: bool,
}

/// The command.
pub static COMMAND: Command<KillArgs> = Command {
    usage: Usage {
        name: "kill",
        summary: "send a signal to the init process of a container",
        operands: "<container-id> [signal]

The signal is a number, or a name with or without SIG. It is SIGTERM by default.

EXAMPLE:
       # berth kill web HUP",
        count: Count::Between(1, 2),
        ..Usage::DEFAULT
    },
    // runc hides the flag as well. Without a pid namespace of its own, a container is killed as a whole in any case.
    flags: &[Binding::switch(&["all", "a"], "", |args, on| args.all = on)],
    operands: |args, operands| {
        args.id = operands.one();
        args.signal = operands.one();
    },
    run,
};

fn run(globals: &Globals, args: KillArgs) -> Outcome {
    let container = load(globals, &args.id)?;
    let signal = signal(&args.signal)?;
    if !args.all {
        kill::kill(&container, signal)?;
        return Ok(0);
    }
    match kill::kill_all(&container, signal) {
        Err(e) if e.kind() == Kind::NotFound => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}

/// Reads the signal. For a number without a signal the error is the one that runc reports from the kernel.
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
    fn signal_is_a_name_or_a_number() {
        assert_eq!(signal("").unwrap(), libc::SIGTERM);
        assert_eq!((signal("KILL").unwrap(), signal("0").unwrap(), signal("64").unwrap()), (9, 0, 64));
        for number in ["-1", "65", "4294967305"] {
            let error = format!("unable to signal init: signal {number}: invalid argument");
            assert_eq!(signal(number).unwrap_err().to_string(), error);
        }
        assert_eq!(signal("FOO").unwrap_err().to_string(), "unknown signal \"FOO\"");
    }
}

//! `ps`: shows the processes of a container, by the host's ps(1) or as a JSON array of pids.

use berth_runtime::{Context, Error, Kind, Result, program, ps};

use super::{Format, load};
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Count, Order, Usage, non_empty},
    output,
};

/// The arguments of `ps`.
#[derive(Debug, Default)]
pub struct PsArgs {
    id: String,
    /// The options of ps(1).
    options: Vec<String>,
    format: Option<String>,
}

/// The command.
pub static COMMAND: Command<PsArgs> = Command {
    usage: Usage {
        name: "ps",
        summary: "show the processes of a container",
        operands: "<container-id> [ps options]",
        count: Count::AtLeast(1),
        order: Order::FlagsFirst,
        ..Usage::DEFAULT
    },
    flags: &[Binding::text(&["format", "f"], "output format: 'table' or 'json'", |args: &mut PsArgs, text| {
        args.format = non_empty(text);
    })
    .or("table")],
    operands: |args, operands| {
        args.id = operands.one();
        args.options = operands.rest();
    },
    run,
};

fn run(globals: &Globals, args: PsArgs) -> Outcome {
    let container = load(globals, &args.id)?;
    let pids = ps::ps(&container)?;
    let text = match Format::parse(args.format.as_deref())? {
        Format::Table => select(&host_ps(&args.options)?, &pids)?,
        Format::Json => json(&pids),
    };
    output::answer(&text)?;
    Ok(0)
}

/// Runs the host's ps(1) with `options`, or with `-ef`; returns its output.
fn host_ps(options: &[String]) -> Result<String> {
    let default = ["-ef".to_owned()];
    let out = program::run("ps", if options.is_empty() { &default } else { options }).context("exec ps")?;
    if out.status != Some(0) {
        let status = out.status.map_or("ended by a signal".to_owned(), |status| format!("exit status: {status}"));
        return Err(Error::new(Kind::Internal, format!("ps: {status}: {}{}", out.stdout, out.stderr)));
    }
    Ok(out.stdout)
}

/// Keeps the header, and the lines whose PID column is one of `pids`.
fn select(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::invalid("couldn't find PID field in ps output"))?;
    let mut text = format!("{header}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 = pid.parse().map_err(|e| Error::invalid(format!("unable to parse pid: {pid:?}: {e}")))?;
        if pids.contains(&pid) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// A JSON array of pids. runc prints null for an empty list, since Go encodes a nil slice so.
fn json(pids: &[i32]) -> String {
    if pids.is_empty() { "null\n".to_owned() } else { format!("{}\n", serde_json::Value::from(pids)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "UID          PID    PPID  C STIME TTY          TIME CMD
root           1       0  0 Nov21 ?        00:00:01 init
root          17       1  0 Nov21 ?        00:00:00 sleep 300
";

    #[test]
    fn ps_shows_the_lines_of_the_container_only() {
        assert_eq!(
            select(TABLE, &[17, 5]).unwrap(),
            "UID          PID    PPID  C STIME TTY          TIME CMD\nroot          17       1  0 Nov21 ?        00:00:00 sleep 300\n"
        );
        assert_eq!(select(TABLE, &[]).unwrap().lines().count(), 1);
    }

    #[test]
    fn ps_output_without_a_pid_column_is_an_error() {
        assert_eq!(select("COMMAND\nsleep\n", &[1]).unwrap_err().to_string(), "couldn't find PID field in ps output");
    }

    #[test]
    fn ps_json_is_an_array_of_pids() {
        assert_eq!((json(&[1, 22]), json(&[])), ("[1,22]\n".to_owned(), "null\n".to_owned()));
    }
}

//! `ps`: the processes of a container, through the host's ps(1) or as pids.

use berth_runtime::{Context, Error, Kind, Result, program, ps};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
    help,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "ps",
    summary: "ps displays the processes running inside a container",
    operands: "<container-id> [ps options]",
    about: "",
    flags: &[Flag::value(&["format", "f"], Takes::Text, "'table' or 'json'").or("table")],
    count: Count::AtLeast(1),
    operands_last: true,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let pids = ps::ps(&container)?;
    match parsed.text("format").unwrap_or("table") {
        "table" => {
            let options = parsed.operands.get(1..).unwrap_or_default();
            help::out(&select(&host_ps(options)?, &pids)?);
        }
        "json" => help::out(&json(&pids)),
        _ => return Err(Error::invalid("invalid format option").into()),
    }
    Ok(0)
}

/// What the host's ps(1) prints, given the `options` or else `-ef`.
fn host_ps(options: &[String]) -> Result<String> {
    let usual = ["-ef".to_owned()];
    let out = program::run("ps", if options.is_empty() { &usual } else { options }).context("exec ps")?;
    if out.status != Some(0) {
        let status = out.status.map_or("ended by a signal".to_owned(), |status| format!("exit status: {status}"));
        return Err(Error::new(Kind::Internal, format!("ps: {status}: {}{}", out.stdout, out.stderr)));
    }
    Ok(out.stdout)
}

/// The header and the lines whose PID column holds one of `pids`.
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

/// An array of pids; no process at all is null, as Go encodes it.
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
    fn only_the_containers_lines_are_shown() {
        assert_eq!(
            select(TABLE, &[17, 5]).unwrap(),
            "UID          PID    PPID  C STIME TTY          TIME CMD\nroot          17       1  0 Nov21 ?        00:00:00 sleep 300\n"
        );
        assert_eq!(select(TABLE, &[]).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_table_without_pids_is_refused() {
        assert_eq!(select("COMMAND\nsleep\n", &[1]).unwrap_err().to_string(), "couldn't find PID field in ps output");
    }

    #[test]
    fn pids_are_an_array() {
        assert_eq!((json(&[1, 22]), json(&[])), ("[1,22]\n".to_owned(), "null\n".to_owned()));
    }
}

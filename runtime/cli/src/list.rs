//! `list`: the containers under one state directory.

use std::{io::Write, os::unix::fs::MetadataExt};

use berth_runtime::{Context, Error, Kind, Result, state};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
    help,
    state::State,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "list",
    summary: "lists containers started with the given root",
    operands: "

Where the given root is the global option \"--root\".",
    about: "",
    flags: &[
        Flag::value(&["format", "f"], Takes::Text, "'table' or 'json'").or("table"),
        Flag::switch(&["quiet", "q"], "only the names"),
    ],
    count: Count::Exactly(0),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let states = states(globals)?;
    if parsed.on("quiet") {
        help::out(&states.iter().map(|state| format!("{}\n", state.id)).collect::<String>());
        return Ok(0);
    }
    let text = match parsed.text("format").unwrap_or("table") {
        "table" => table(&states),
        "json" => json(&states)?,
        _ => return Err(Error::invalid("invalid format option").into()),
    };
    help::out(&text);
    Ok(0)
}

/// The state of each container that can be read; the others are named on stderr.
fn states(globals: &Globals) -> Result<Vec<State>> {
    if let Err(e) = std::fs::metadata(&globals.root) {
        // The default root comes into being with the first container.
        if e.kind() == std::io::ErrorKind::NotFound && !globals.root_given {
            return Ok(Vec::new());
        }
        return Err(Error::from(e).context(format!("open {}", globals.root.display())));
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut states = Vec::new();
    for container in state::list(&globals.root)? {
        let state = container.and_then(|container| {
            let directory = globals.root.join(container.id());
            let uid = std::fs::metadata(&directory).with_context(|| format!("stat {}", directory.display()))?.uid();
            State::of(&container, owner(&users, uid))
        });
        match state {
            Ok(state) => states.push(state),
            Err(e) => drop(writeln!(std::io::stderr(), "load container: {e}")),
        }
    }
    Ok(states)
}

/// The name of `uid` by the text of /etc/passwd, or `#uid`.
fn owner(users: &str, uid: u32) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn json(states: &[State]) -> Result<String> {
    // Go encodes an empty list that was never made as null, and callers know that.
    let list = if states.is_empty() { None } else { Some(states) };
    let text = serde_json::to_string(&list).map_err(|e| Error::new(Kind::Internal, format!("encode list: {e}")))?;
    Ok(text + "\n")
}

/// Columns at least 12 wide and 3 apart.
fn table(states: &[State]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|s| {
        [s.id.clone(), s.pid.to_string(), s.status.clone(), s.bundle.clone(), s.created.clone(), s.owner.clone()]
    }));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (cell.chars().count() + 3).max(12).max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let last = row.len() - 1;
        for (n, (cell, width)) in row.iter().zip(widths).enumerate() {
            text.push_str(cell);
            let gap = if n == last { 0 } else { width - cell.chars().count() };
            text.extend(std::iter::repeat_n(' ', gap));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_a_header_or_null() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
        assert_eq!(json(&[]).unwrap(), "null\n");
    }

    #[test]
    fn owners_have_names_or_numbers() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nmail:x:8:8::/:/bin/false\n";
        assert_eq!([0, 8, 80].map(|uid| owner(users, uid)), ["root", "mail", "#80"]);
    }
}

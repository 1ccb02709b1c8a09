//! `list`: shows the containers of a state directory.

use std::{io::Write, os::unix::fs::MetadataExt};

use berth_runtime::{Context, Error, Kind, Result, state};

use super::{Format, state::State};
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Count, Usage, non_empty},
    output,
};

/// The arguments of `list`.
#[derive(Debug, Default)]
pub struct ListArgs {
    format: Option<String>,
    quiet: bool,
}

/// The command.
pub static COMMAND: Command<ListArgs> = Command {
    usage: Usage {
        name: "list",
        summary: "show the containers of a state directory",
        operands: "

The global flag --root names the directory.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        Binding::text(&["format", "f"], "output format: 'table' or 'json'", |args: &mut ListArgs, text| {
            args.format = non_empty(text);
        })
        .or("table"),
        Binding::switch(&["quiet", "q"], "print ids and nothing else", |args, on| args.quiet = on),
    ],
    operands: |_, _| {},
    run,
};

fn run(globals: &Globals, args: ListArgs) -> Outcome {
    let states = states(globals)?;
    if args.quiet {
        output::answer(&states.iter().map(|state| format!("{}\n", state.id)).collect::<String>())?;
        return Ok(0);
    }
    let text = match Format::parse(args.format.as_deref())? {
        Format::Table => table(&states),
        Format::Json => json(&states)?,
    };
    output::answer(&text)?;
    Ok(0)
}

/// The states of the containers. A container whose state cannot be read is named on stderr.
fn states(globals: &Globals) -> Result<Vec<State>> {
    if let Err(e) = std::fs::metadata(&globals.root) {
        // The first container makes the default directory.
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

/// Looks `uid` up in the text of /etc/passwd; returns `#uid` if it is not there.
fn owner(users: &str, uid: u32) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn json(states: &[State]) -> Result<String> {
    // runc prints null for an empty list, since Go encodes a nil slice so.
    let list = if states.is_empty() { None } else { Some(states) };
    let text = serde_json::to_string(&list).map_err(|e| Error::new(Kind::Internal, format!("encode list: {e}")))?;
    Ok(text + "\n")
}

/// A table whose columns are at least 12 characters wide and 3 apart.
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
    fn empty_list_is_a_header_or_null() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
        assert_eq!(json(&[]).unwrap(), "null\n");
    }

    #[test]
    fn owner_without_a_name_is_shown_as_a_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nmail:x:8:8::/:/bin/false\n";
        assert_eq!([0, 8, 80].map(|uid| owner(users, uid)), ["root", "mail", "#80"]);
    }
}

//! Manual pages in man(7).

use std::fmt::Write as _;

use super::{Flag, Takes, Usage, shown, spellings};
use crate::{
    args::{AnyCommand, flags},
    help::ABOUT,
    table::{COMMANDS, GLOBALS},
};

/// berth(8).
pub fn program() -> String {
    let (headline, about) = ABOUT.split_once('\n').unwrap();
    let mut page = start("berth", headline);
    page.push_str(".SH SYNOPSIS\n\\fBberth\\fR [\\fIglobal options\\fR] \\fIcommand\\fR [\\fIcommand options\\fR] [\\fIarguments\\fR...]\n");
    page.push_str(".SH DESCRIPTION\n");
    blocks(&mut page, about);
    page.push_str(".SH COMMANDS\n");
    for Usage { name, summary, .. } in COMMANDS.iter().map(|command| command.usage()) {
        let _ = writeln!(page, ".TP\n\\fBberth\\-{name}\\fR(8)\n{}", line(summary));
    }
    options(&mut page, "GLOBAL OPTIONS", &flags(GLOBALS));
    page.push_str(
        ".SH EXIT STATUS\nIn the foreground, \\fBrun\\fR and \\fBexec\\fR exit with the status of the container's process,\nor with \
         128 plus the number of the signal that ended the process.\nIf \\fBexec\\fR itself fails, its status is 255. If \
         another command fails, its status is 1.\n\
         .SH FILES\n.TP\n\\fI/run/berth\\fR\nThe state of containers, one directory each. For an unprivileged user the \
         directory is\n\\fI$XDG_RUNTIME_DIR/berth\\fR.\n",
    );
    page
}

/// The page of one command.
pub fn command(command: &dyn AnyCommand) -> String {
    let Usage { name, summary, operands, description, .. } = command.usage();
    let (operands, notes) = operands.split_once('\n').unwrap_or((operands, ""));
    let text = format!("{description}\n\n{notes}");
    let (description, example) = text.split_once("EXAMPLE:").unwrap_or((&text, ""));
    let mut page = start(&format!("berth-{name}"), summary);
    let _ = writeln!(page, ".SH SYNOPSIS\n\\fBberth {name}\\fR [\\fIoptions\\fR] {}", line(operands));
    if !description.trim().is_empty() {
        page.push_str(".SH DESCRIPTION\n");
        blocks(&mut page, description);
    }
    options(&mut page, "OPTIONS", &command.flags());
    if !example.is_empty() {
        page.push_str(".SH EXAMPLE\n");
        blocks(&mut page, example);
    }
    page.push_str(".SH SEE ALSO\n\\fBberth\\fR(8)\n");
    page
}

fn start(name: &str, headline: &str) -> String {
    format!(".TH {} 8\n.SH NAME\n{} \\- {}\n", name.to_uppercase(), line(name), line(headline))
}

fn options(page: &mut String, heading: &str, flags: &[&'static Flag]) {
    let _ = writeln!(page, ".SH {heading}");
    for flag in shown(flags) {
        let names: Vec<_> = spellings(flag).map(|name| format!("\\fB{}\\fR", escape(&name))).collect();
        let value = if flag.takes == Takes::Nothing { "" } else { " \\fIvalue\\fR" };
        let default = if flag.default.is_empty() { String::new() } else { format!(" (default: {})", flag.default) };
        let _ = writeln!(page, ".TP\n{}{value}\n{}", names.join(", "), line(&format!("{}{default}", flag.help)));
    }
}

/// Writes paragraphs. An indented paragraph is an example, whose lines stay as they are.
fn blocks(page: &mut String, text: &str) {
    for block in text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.trim().is_empty()) {
        let example = block.starts_with("    ");
        // .SH begins a paragraph by itself.
        let under_heading = page.lines().last().is_some_and(|line| line.starts_with(".SH"));
        page.push_str(if under_heading { "" } else { ".PP\n" });
        page.push_str(if example { ".RS 4\n.EX\n" } else { "" });
        for text in block.lines() {
            let _ = writeln!(page, "{}", line(text.trim()));
        }
        page.push_str(if example { ".EE\n.RE\n" } else { "" });
    }
}

/// Escapes a line. At its beginning, roff takes a dot or an apostrophe for a request.
fn line(text: &str) -> String {
    let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{}", escape(text))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[test]
fn roff_text_cannot_become_a_request() {
    assert_eq!(line(".so x\\n --all"), "\\&.so x\\en \\-\\-all");
    let mut page = String::new();
    blocks(&mut page, "One\ntwo.\n\n    # berth x\n");
    assert_eq!(page, ".PP\nOne\ntwo.\n.PP\n.RS 4\n.EX\n# berth x\n.EE\n.RE\n");
}

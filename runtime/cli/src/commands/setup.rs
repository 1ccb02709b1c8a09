//! `check`, `completion`, `install` and `uninstall`: execute the program `berth-setup`. Their flags are here, so that help, manual pages and
//! completions show them; berth-setup gets each as one word.

use super::sibling::execute;
use crate::args::{Binding, Command, Count, Usage};

/// The program that does the work.
const PROGRAM: &str = "berth-setup";

/// The words for berth-setup.
#[derive(Debug, Default)]
pub struct SetupArgs(Vec<String>);

impl SetupArgs {
    fn switch(&mut self, flag: &str, on: bool) {
        self.0.retain(|word| word != flag);
        self.0.extend(on.then(|| flag.to_owned()));
    }

    fn value(&mut self, flag: &str, text: &str) {
        self.0.push(format!("{flag}={text}"));
    }
}

/// A switch that is passed on.
macro_rules! switch {
    ($name:literal, $help:literal) => {
        Binding::switch(&[$name], $help, |args: &mut SetupArgs, on| args.switch(concat!("--", $name), on))
    };
}

/// A flag with a text that is passed on.
macro_rules! text {
    ($name:literal, $help:literal) => {
        Binding::text(&[$name], $help, |args: &mut SetupArgs, text| args.value(concat!("--", $name), &text))
    };
}

/// The command `check`.
pub static CHECK: Command<SetupArgs> = Command {
    usage: Usage {
        name: "check",
        summary: "tell whether this host has what berth needs",
        description: "Looks at the kernel, the cgroups, the security modules, user namespaces and
the engines, and changes nothing. Each line is ok, warning, missing, or - for
a thing that is not on this host and not needed. The exit status is 1 if a
thing that berth needs is missing, else 0.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        switch!("json", "print the findings as JSON"),
        text!("destdir", "look at the engines' files below this directory only"),
    ],
    operands: |_, _| {},
    run: |_, args| Err(execute(PROGRAM, "check", &args.0)),
};

/// The command `completion`.
pub static COMPLETION: Command<SetupArgs> = Command {
    usage: Usage {
        name: "completion",
        summary: "print the completion of commands and flags for a shell",
        operands: "bash|zsh|fish",
        description: "EXAMPLE:
    source <(berth completion bash)",
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.0.push(operands.one()),
    run: |_, args| Err(execute(PROGRAM, "completion", &args.0)),
};

/// The command `install`.
pub static INSTALL: Command<SetupArgs> = Command {
    usage: Usage {
        name: "install",
        summary: "register berth with container engines",
        description: "Writes a file of its own where the engine reads one: podman, CRI-O, and a
containerd or k3s whose configuration imports the directory. Else it adds one
entry to the engine's file: daemon.json of docker, config.toml of containerd,
the template of k3s. All other bytes stay as they are. What was there before is
kept in /var/lib/berth/setup, and berth uninstall restores it byte for byte.
A repeated command does nothing. Nothing is restarted without --restart.

EXAMPLE:
    berth install --containerd --dry-run
    berth install --containerd --restart",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        switch!("containerd", "register a handler with containerd, for Kubernetes and crictl"),
        switch!("docker", "register a runtime with docker"),
        switch!("podman", "register a runtime with podman and buildah"),
        switch!("crio", "register a handler with CRI-O"),
        switch!("k3s", "register a handler with the containerd of k3s"),
        switch!("rke2", "register a handler with the containerd of RKE2"),
        switch!("all", "register berth with each engine of this host"),
        text!("name", "name of the runtime or handler").or("berth"),
        text!("bin-dir", "directory of berth's programs, instead of this one's"),
        switch!("shim", "let docker call berth's shim; it then knows no features of berth"),
        text!("containerd-version", "version of containerd, if it cannot be asked"),
        switch!("dry-run", "show the changes and make none"),
        switch!("restart", "restart an engine whose files have changed"),
        switch!("force", "replace a file that another hand wrote or edited"),
        text!("destdir", "change the files below this directory, for an image of a host"),
    ],
    operands: |_, _| {},
    run: |_, args| Err(execute(PROGRAM, "install", &args.0)),
};

/// The command `uninstall`.
pub static UNINSTALL: Command<SetupArgs> = Command {
    usage: Usage {
        name: "uninstall",
        summary: "undo what install did",
        description: "Restores the files of an engine as they were before berth install, byte for
byte. A shared file that was edited since keeps the edits and loses berth's
entry. Running containers are not touched: an engine that is restarted goes on
with the shims that run.",
        count: Count::Exactly(0),
        ..Usage::DEFAULT
    },
    flags: &[
        switch!("containerd", "restore containerd's files"),
        switch!("docker", "restore docker's files"),
        switch!("podman", "restore podman's files"),
        switch!("crio", "restore CRI-O's files"),
        switch!("k3s", "restore the files of k3s"),
        switch!("rke2", "restore the files of RKE2"),
        switch!("all", "restore the files of all engines"),
        switch!("dry-run", "show the changes and make none"),
        switch!("restart", "restart an engine whose files have changed"),
        switch!("force", "give up the edits of a file that berth wrote"),
        text!("destdir", "change the files below this directory"),
    ],
    operands: |_, _| {},
    run: |_, args| Err(execute(PROGRAM, "uninstall", &args.0)),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::arguments;

    #[test]
    fn flags_reach_the_program_as_one_word_each() {
        let args = arguments(&INSTALL, &["--docker", "--name", "x y", "--dry-run", "--restart", "--restart=false"]);
        assert_eq!(args.0, ["--docker", "--name=x y", "--dry-run"]);
    }
}

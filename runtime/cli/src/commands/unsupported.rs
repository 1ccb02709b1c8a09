//! Commands of runc that this runtime does not support: `checkpoint` and `restore`. The table has them with their flags,
//! so that the error says that they are not supported, instead of reporting an unknown command or flag.

use berth_runtime::Error;

use crate::{
    Outcome,
    args::{Binding, Command, Usage},
};

/// The command `checkpoint`.
pub static CHECKPOINT: Command<()> = Command {
    usage: Usage {
        name: "checkpoint",
        summary: "save a running container to disk (not supported)",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[
        text(&["image-path"]),
        text(&["work-path"]),
        text(&["parent-path"]),
        switch(&["leave-running"]),
        switch(&["tcp-established"]),
        switch(&["tcp-skip-in-flight"]),
        switch(&["link-remap"]),
        switch(&["ext-unix-sk"]),
        switch(&["shell-job"]),
        switch(&["lazy-pages"]),
        text(&["status-fd"]),
        text(&["page-server"]),
        switch(&["file-locks"]),
        switch(&["pre-dump"]),
        text(&["manage-cgroups-mode"]),
        text(&["empty-ns"]),
        switch(&["auto-dedup"]),
    ],
    operands: |(), _| {},
    run: |_, ()| refuse("checkpoint"),
};

/// The command `restore`.
pub static RESTORE: Command<()> = Command {
    usage: Usage {
        name: "restore",
        summary: "bring a saved container back (not supported)",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[
        text(&["console-socket"]),
        text(&["image-path"]),
        text(&["work-path"]),
        switch(&["tcp-established"]),
        switch(&["ext-unix-sk"]),
        switch(&["shell-job"]),
        switch(&["file-locks"]),
        text(&["manage-cgroups-mode"]),
        text(&["bundle", "b"]),
        switch(&["detach", "d"]),
        text(&["pid-file"]),
        switch(&["no-subreaper"]),
        switch(&["no-pivot"]),
        text(&["empty-ns"]),
        switch(&["auto-dedup"]),
        switch(&["lazy-pages"]),
        text(&["lsm-profile"]),
        text(&["lsm-mount-context"]),
    ],
    operands: |(), _| {},
    run: |_, ()| refuse("restore"),
};

/// A flag with a text that is accepted and ignored. It has no help text, so `--help` does not show it.
const fn text(names: &'static [&'static str]) -> Binding<()> {
    Binding::text(names, "", |(), _| {})
}

/// A switch that is accepted and ignored, as [`text`].
const fn switch(names: &'static [&'static str]) -> Binding<()> {
    Binding::switch(names, "", |(), _| {})
}

fn refuse(command: &str) -> Outcome {
    Err(Error::unsupported(format!("{command}: not supported")).into())
}

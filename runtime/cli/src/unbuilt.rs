//! Commands of runc that this runtime does not have yet. They are known, with their flags, and say so, instead of
//! being taken for a typing error.

use berth_runtime::Error;

use super::{
    Outcome,
    args::{Command, Count, Flag, Takes},
};

/// Saving a container to disk.
pub static CHECKPOINT: Command = Command {
    name: "checkpoint",
    summary: "checkpoint a running container (not built yet)",
    operands: "<container-id>",
    about: "",
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
    count: Count::Exactly(1),
    operands_last: false,
    run: |_, _| refuse("checkpoint"),
};

/// Bringing it back.
pub static RESTORE: Command = Command {
    name: "restore",
    summary: "restore a container from a previous checkpoint (not built yet)",
    operands: "<container-id>",
    about: "",
    flags: &[
        text(&["console-socket"]),
        text(&["image-path"]),
        text(&["work-path"]),
        switch(&["tcp-established"]),
        switch(&["ext-unix-sk"]),
        switch(&["shell-job"]),
        switch(&["file-locks"]),
        text(&["manage-cgroups-mode"]),
        Flag::value(&["bundle", "b"], Takes::Text, ""),
        Flag::switch(&["detach", "d"], ""),
        text(&["pid-file"]),
        switch(&["no-subreaper"]),
        switch(&["no-pivot"]),
        text(&["empty-ns"]),
        switch(&["auto-dedup"]),
        switch(&["lazy-pages"]),
        text(&["lsm-profile"]),
        text(&["lsm-mount-context"]),
    ],
    count: Count::Exactly(1),
    operands_last: false,
    run: |_, _| refuse("restore"),
};

/// Hidden from --help, which must not promise anything.
const fn text(names: &'static [&'static str]) -> Flag {
    Flag::value(names, Takes::Text, "")
}

const fn switch(names: &'static [&'static str]) -> Flag {
    Flag::switch(names, "")
}

fn refuse(command: &str) -> Outcome {
    Err(Error::unsupported(format!("{command}: not built yet")).into())
}

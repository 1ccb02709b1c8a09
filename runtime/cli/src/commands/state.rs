//! `state`: prints the state of a container as JSON, in the form that the runtime specification and go-runc know.

use std::collections::BTreeMap;

use berth_runtime::{
    Error, Kind, Result,
    state::{Container, Status},
};
use serde::Serialize;

use super::{ContainerArgs, load};
use crate::{
    Globals, Outcome,
    args::{Command, Usage},
    output,
};

/// The command.
pub static COMMAND: Command<ContainerArgs> = Command {
    usage: Usage {
        name: "state",
        summary: "print the state of a container as JSON",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: ContainerArgs) -> Outcome {
    let container = load(globals, &args.id)?;
    let state = State::of(&container, String::new())?;
    let json =
        serde_json::to_string_pretty(&state).map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))?;
    output::answer(&json)?;
    Ok(0)
}

/// The state of a container. `list` prints it as well, with the owner.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: String,
    /// The id.
    pub id: String,
    /// The pid of init in the caller's pid namespace; 0 if the container has stopped.
    pub pid: i32,
    /// `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// The bundle directory.
    pub bundle: String,
    rootfs: String,
    /// The time of creation (RFC 3339).
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    /// The owner of the state directory; empty in the output of `state`.
    pub owner: String,
}

impl State {
    /// Reads the state as it is now.
    ///
    /// # Errors
    /// Fails if [`Container::status`] fails.
    pub fn of(container: &Container, owner: String) -> Result<Self> {
        let status = container.status()?;
        Ok(Self {
            oci_version: container.oci_version().to_owned(),
            id: container.id().to_owned(),
            pid: if status == Status::Stopped { 0 } else { container.pid() },
            status: status.to_string(),
            bundle: container.bundle().to_string_lossy().into_owned(),
            rootfs: container.rootfs().to_string_lossy().into_owned(),
            created: container.created().to_owned(),
            annotations: container.annotations().iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_keys_are_in_the_order_of_runc_and_annotations_may_be_absent() {
        let mut state = State {
            oci_version: "1.3.0".into(),
            id: "c".into(),
            pid: 1,
            status: "running".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-22T00:28:56.770052725Z".into(),
            annotations: BTreeMap::new(),
            owner: String::new(),
        };
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            r#"{"ociVersion":"1.3.0","id":"c","pid":1,"status":"running","bundle":"/b","rootfs":"/b/rootfs","created":"2026-11-22T00:28:56.770052725Z","owner":""}"#
        );
        state.annotations.insert("k".into(), "v".into());
        assert!(serde_json::to_string(&state).unwrap().ends_with(r#","annotations":{"k":"v"},"owner":""}"#));
    }
}

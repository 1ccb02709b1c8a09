//! `state`: what is known about one container, as the JSON that go-runc and the specification describe.

use std::collections::BTreeMap;

use berth_runtime::{
    Error, Kind, Result,
    state::{Container, Status},
};
use serde::Serialize;

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
    help,
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "state",
    summary: "output the state of a container",
    operands: "<container-id>

Where \"<container-id>\" is the name of the container.",
    about: "",
    flags: &[],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let state = State::of(&container, String::new())?;
    let json =
        serde_json::to_string_pretty(&state).map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))?;
    help::out(&json);
    Ok(0)
}

/// The state of a container. `list` shows the same, with the owner.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: String,
    /// The container's name.
    pub id: String,
    /// Of its process as the host sees it; 0 when it has stopped.
    pub pid: i32,
    /// `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// The bundle's directory.
    pub bundle: String,
    rootfs: String,
    /// RFC 3339.
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    /// Who owns the state, where that was asked for.
    pub owner: String,
}

impl State {
    /// What is so at this moment.
    ///
    /// # Errors
    /// Those of [`Container::status`].
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
    fn keys_come_in_runcs_order_and_annotations_only_if_there_are_any() {
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

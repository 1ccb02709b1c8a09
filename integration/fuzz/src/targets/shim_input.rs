//! The command line of the shim, the input of `start`, the options of a task, stdio URIs, and each request of the Task service.
//! The oracle: names become no paths, and a message that is decoded is the same after it is encoded and decoded again.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use berth_proto::{Message, bootstrap::BootstrapParams, runc, runtime_options::RuntimeOptions, task::*, wkt::Any};
use berth_shim::{
    args::{Action, Args},
    bootstrap::{AnswerForm, StartRequest},
    io::uri::{OutputTarget, StdioRequest},
    options::TaskOptions,
};

use crate::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(6) {
        0 => arguments(input.rest()),
        1 => start(input.rest()),
        2 => options(&mut input),
        3 => stdio(&String::from_utf8_lossy(input.rest())),
        _ => requests(input.rest()),
    }
}

fn arguments(bytes: &[u8]) {
    let words: Vec<_> = bytes.split(|b| *b == b'\n').map(|word| OsString::from_vec(word.to_vec())).collect();
    let Ok(args) = Args::parse(words.iter().cloned()) else { return };
    if !matches!(args.action, Action::Info | Action::Version) {
        let is_component = |text: &str| !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']);
        assert!(is_component(&args.namespace), "{args:?}");
        assert!(args.action == Action::Serve || is_component(&args.id), "{args:?}");
    }
    let given = |value: &str| words.iter().any(|word| word.to_str().is_some_and(|word| word.ends_with(value)));
    assert!(given(&args.namespace) && given(&args.id) && given(&args.address));
}

fn start(bytes: &[u8]) {
    let args = Args { namespace: "k8s.io".into(), id: "c".into(), ..Args::default() };
    for form in [AnswerForm::Address, AnswerForm::Json] {
        let Ok(request) = StartRequest::decode(&without_files(bytes), &args, form) else { continue };
        let params = BootstrapParams::parse_from_bytes(bytes).ok();
        let named = params.is_some_and(|p| p.instance_id == args.id && p.namespace == args.namespace);
        assert_eq!(request.form == AnswerForm::Message, named);
        assert!(named || (request.form == form && request.socket_dir.is_none() && request.ttrpc_address.is_none()));
        assert!(request.options.root.is_none_or(|root| root.is_absolute()));
    }
}

/// Options that name a file of the host would read it.
fn without_files(bytes: &[u8]) -> Vec<u8> {
    let has_file = Any::parse_from_bytes(bytes)
        .is_ok_and(|any| RuntimeOptions::parse_from_bytes(&any.value).is_ok_and(|o| !o.config_path.is_empty()));
    let has_file = has_file
        || BootstrapParams::parse_from_bytes(bytes).is_ok_and(|params| {
            params.extensions.iter().any(|extension| {
                RuntimeOptions::parse_from_bytes(&extension.value.value).is_ok_and(|o| !o.config_path.is_empty())
            })
        });
    if has_file { Vec::new() } else { bytes.to_vec() }
}

fn options(input: &mut Input) {
    let is_toml = input.flag();
    let bytes = input.rest();
    let any = if is_toml {
        let message = RuntimeOptions { config_body: bytes.to_vec(), ..RuntimeOptions::default() };
        let value = message.write_to_bytes().unwrap();
        Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() }
    } else {
        let mut any = berth_proto::any::pack(&runc::Options::new()).unwrap();
        any.value = bytes.to_vec();
        any
    };
    let Ok(options) = TaskOptions::decode(Some(&any)) else { return };
    assert!(options.root.as_ref().is_none_or(|root| root.is_absolute()));
    assert!(options.state_root("ns").ends_with("ns"));
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<TaskOptions>(&text).unwrap(), options);
}

fn stdio(text: &str) {
    let (stdout, stderr) = text.split_once('\n').unwrap_or((text, ""));
    let request = StdioRequest { stdout: stdout.into(), stderr: stderr.into(), ..StdioRequest::default() };
    match request.target() {
        Ok(OutputTarget::File(path)) => {
            assert!(path.is_absolute() && stdout.starts_with("file:"), "{stdout:?}");
        }
        Ok(OutputTarget::Logger(program)) => {
            assert!(program.path.is_absolute() && stdout.starts_with("binary"), "{stdout:?}");
            assert!(program.args.len() % 2 == 0);
            let keys: Vec<_> = program.args.iter().step_by(2).collect();
            assert!(keys.iter().enumerate().all(|(n, key)| !keys[..n].contains(key)), "a key comes twice");
        }
        Ok(OutputTarget::Paths { stdout: path, stderr: other }) => {
            assert_eq!(other.is_some(), !stderr.strip_prefix("fifo://").unwrap_or(stderr).is_empty());
            assert!(path.is_none_or(|path| stdout.ends_with(path.to_str().unwrap())));
        }
        Err(_) => assert!(stdout.contains(':')),
    }
}

fn round<M: Message + PartialEq>(bytes: &[u8]) {
    let Ok(message) = M::parse_from_bytes(bytes) else { return };
    let encoded = message.write_to_bytes().unwrap();
    let again = M::parse_from_bytes(&encoded).unwrap();
    // A number that is none never equals itself.
    assert!(again == message || again.write_to_bytes().unwrap() == encoded);
}

fn requests(bytes: &[u8]) {
    round::<StateRequest>(bytes);
    round::<CreateTaskRequest>(bytes);
    round::<StartRequest_>(bytes);
    round::<DeleteRequest>(bytes);
    round::<PidsRequest>(bytes);
    round::<PauseRequest>(bytes);
    round::<ResumeRequest>(bytes);
    round::<CheckpointTaskRequest>(bytes);
    round::<KillRequest>(bytes);
    round::<ExecProcessRequest>(bytes);
    round::<ResizePtyRequest>(bytes);
    round::<CloseIORequest>(bytes);
    round::<UpdateTaskRequest>(bytes);
    round::<WaitRequest>(bytes);
    round::<StatsRequest>(bytes);
    round::<ConnectRequest>(bytes);
    round::<ShutdownRequest>(bytes);
    if let Ok(request) = CreateTaskRequest::parse_from_bytes(bytes) {
        let _ = berth_runtime::state::check_id(&request.id).map(|()| {
            assert!(!request.id.contains('/') && request.id.len() <= 255 && request.id != "..");
        });
    }
}

type StartRequest_ = berth_proto::task::StartRequest;

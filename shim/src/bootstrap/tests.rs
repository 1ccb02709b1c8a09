use berth_proto::{
    MessageField, any,
    bootstrap::{Extension, LogLevel},
    runc,
};

use super::*;

fn args() -> Args {
    Args { namespace: "k8s.io".into(), id: "c1".into(), ..Args::default() }
}

fn systemd() -> Any {
    any::pack(&runc::Options { systemd_cgroup: true, ..Default::default() }).unwrap()
}

fn params() -> BootstrapParams {
    BootstrapParams { instance_id: "c1".into(), namespace: "k8s.io".into(), ..Default::default() }
}

fn decode(input: &[u8]) -> Result<StartRequest> {
    StartRequest::decode(input, &args(), AnswerForm::Json)
}

#[test]
fn empty_input_gives_the_default_options() {
    assert_eq!(decode(b"").unwrap(), StartRequest { form: AnswerForm::Json, ..StartRequest::default() });
    assert_eq!(StartRequest::decode(b"", &args(), AnswerForm::Address).unwrap().form, AnswerForm::Address);
}

#[test]
fn options_that_also_decode_as_params_are_taken_for_options() {
    let bytes = systemd().write_to_bytes().unwrap();
    let trap = BootstrapParams::parse_from_bytes(&bytes).unwrap();
    assert_eq!(trap.instance_id, "containerd.runc.v1.Options", "the trap is there");
    let request = decode(&bytes).unwrap();
    assert_eq!((request.form, request.options.systemd_cgroup), (AnswerForm::Json, Some(true)));
}

#[test]
fn options_with_binary_values_decode() {
    let message = runc::Options { io_uid: 70_000, ..Default::default() };
    let bytes = any::pack(&message).unwrap().write_to_bytes().unwrap();
    assert!(BootstrapParams::parse_from_bytes(&bytes).is_err(), "its value is no UTF-8");
    assert_eq!(decode(&bytes).unwrap().options.io_uid, 70_000);
}

#[test]
fn params_carry_options_socket_address_and_log_level() {
    let foreign = Extension { value: MessageField::some(any::json("x.v1.Pod", vec![1])), ..Default::default() };
    let extension = Extension { value: MessageField::some(systemd()), ..Default::default() };
    let mut params = params();
    params.extensions = vec![foreign, extension];
    params.socket_dir = Some("/run/x".into());
    params.containerd_ttrpc_address = "/run/c.ttrpc".into();
    params.log_level = LogLevel::LOG_LEVEL_DEBUG.into();
    let request = decode(&params.write_to_bytes().unwrap()).unwrap();
    let options = TaskOptions { systemd_cgroup: Some(true), ..TaskOptions::default() };
    let (socket_dir, ttrpc_address) = (Some("/run/x".into()), Some("/run/c.ttrpc".into()));
    assert_eq!(request, StartRequest { form: AnswerForm::Message, options, socket_dir, ttrpc_address, debug: true });
}

#[test]
fn params_alone_give_the_default_options() {
    let request = decode(&params().write_to_bytes().unwrap()).unwrap();
    assert_eq!(request, StartRequest { form: AnswerForm::Message, ..StartRequest::default() });
}

#[test]
fn params_of_another_container_are_not_taken_for_params() {
    let other = BootstrapParams { instance_id: "c2".into(), ..params() };
    assert_eq!(decode(&other.write_to_bytes().unwrap()).unwrap().form, AnswerForm::Json);
}

#[test]
fn malformed_input_is_refused() {
    for input in [&b"\xff\xff\xff"[..], b"H\x01", b"{}", b"\x12\x01x"] {
        let e = decode(input).unwrap_err();
        assert!(e.to_string().starts_with("standard input is neither"), "{input:?}: {e}");
    }
    let bad = any::json("containerd.runc.v1.Options", vec![0x0a, 0x7f]).write_to_bytes().unwrap();
    assert!(decode(&bad).unwrap_err().to_string().contains("options containerd.runc.v1.Options: malformed"));
}

#[test]
fn each_form_of_answer_encodes_version_2() {
    assert_eq!(AnswerForm::Address.answer("unix:///s").unwrap(), b"unix:///s");
    let json: serde_json::Value = serde_json::from_slice(&AnswerForm::Json.answer("unix:///s").unwrap()).unwrap();
    assert_eq!(json, serde_json::json!({"version": 2, "address": "unix:///s", "protocol": "ttrpc"}));
    let result = BootstrapResult::parse_from_bytes(&AnswerForm::Message.answer("unix:///s").unwrap()).unwrap();
    assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (2, "unix:///s", "ttrpc"));
}

#[test]
fn a_text_answer_does_not_decode_as_a_message() {
    // containerd 2.3 tries to decode the protobuf message first.
    for form in [AnswerForm::Address, AnswerForm::Json] {
        assert!(BootstrapResult::parse_from_bytes(&form.answer("unix:///run/containerd/s/ab").unwrap()).is_err());
    }
}

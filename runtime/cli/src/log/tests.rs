use super::*;

#[test]
fn text_line_has_the_format_of_logrus() {
    assert_eq!(
        line(Format::Text, Level::Error, "2026-11-22T00:13:38Z", "container does not exist"),
        "time=\"2026-11-22T00:13:38Z\" level=error msg=\"container does not exist\"\n"
    );
    assert_eq!(
        line(Format::Text, Level::Warn, "2026-11-22T00:13:38Z", "x/y-z.1@^+"),
        "time=\"2026-11-22T00:13:38Z\" level=warning msg=x/y-z.1@^+\n"
    );
    assert!(
        line(Format::Text, Level::Error, "t", "a \"b\"\n\\\u{1}\u{e9}")
            .ends_with("\"a \\\"b\\\"\\n\\\\\\x01\u{e9}\"\n")
    );
}

#[test]
fn json_line_is_readable_by_go_runc() {
    let text = line(Format::Json, Level::Error, "2026-11-22T00:13:38Z", "exec: \"x\": not\nfound");
    assert_eq!(
        text,
        "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": not\\nfound\",\"time\":\"2026-11-22T00:13:38Z\"}\n"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["msg"], "exec: \"x\": not\nfound");
}

#[test]
fn terminal_gets_the_short_form_of_logrus() {
    assert_eq!(
        coloured(Level::Error, 0, "container does not exist"),
        format!("\x1b[31mERRO\x1b[0m[0000] {:<44} \n", "container does not exist")
    );
}

#[test]
fn control_characters_of_a_name_do_not_reach_the_terminal() {
    let name = "exec: \"\u{1b}]0;t\u{7}\u{1b}[2Jx\u{9b}31m\u{7f}\": not\n\tfound \u{e9}";
    let line = coloured(Level::Error, 0, name);
    let said = line.strip_prefix("\x1b[31mERRO\x1b[0m[0000] ").unwrap();
    assert_eq!(said.trim_end(), "exec: \"\\x1b]0;t\\x07\\x1b[2Jx\\u009b31m\\x7f\": not\n\tfound \u{e9}");
}

#[test]
fn time_of_a_line_ends_with_the_second() {
    let now = now();
    assert!(now.len() == 20 && now.ends_with('Z') && now.as_bytes()[10] == b'T', "{now}");
}

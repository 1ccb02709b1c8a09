//! `tags` against a registry of the tests: pages, tokens, files of credentials, and that credentials go nowhere else.
#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

#[path = "../src/fixture.rs"]
mod fixture;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use self::fixture::Scratch;

/// A request as the server sees it.
#[derive(Clone, Debug, Default)]
struct Asked {
    line: String,
    authorization: Option<String>,
    body: String,
}

/// A server that answers by a function of the request and of its own address; it records what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn new(answer: impl Fn(&Asked, &str) -> (u16, String, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (own, record) = (address.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let Some(request) = read(&stream) else { continue };
                record.lock().unwrap().push(request.clone());
                let (status, headers, body) = answer(&request, &own);
                let text = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
                    body.len()
                );
                let _ = (&stream).write_all(text.as_bytes());
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn repository(&self) -> String {
        format!("{}/team/app", self.address)
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut asked = Asked::default();
    reader.read_line(&mut asked.line).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    asked.line = asked.line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Some(asked)
}

fn tags(home: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth-image"))
        .arg("tags")
        .args(words)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", home.display()))
        // No proxy answers here: a call to this machine must not go through one.
        .envs(["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"].map(|name| (name, "http://127.0.0.1:1")))
        .output()
        .unwrap()
}

fn said(out: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn ok(body: &str) -> (u16, String, String) {
    (200, String::new(), body.to_owned())
}

/// Pages of three tags each, with links in a style.
fn pages(style: &'static str) -> Server {
    Server::new(move |asked, own| {
        let at: usize =
            asked.line.rsplit_once("at%3D").map_or(0, |(_, at)| at.split('&').next().unwrap().parse().unwrap());
        let names: Vec<_> = (at..10.min(at + 3)).map(|n| format!("\"v{n}\"")).collect();
        let path = asked.line.split(' ').nth(1).unwrap().split('?').next().unwrap();
        let target = style.replace("OWN", own).replace("PATH", path).replace("NEXT", &format!("at%3D{}", at + 3));
        let link = if at + 3 < 10 { format!("Link: {target}\r\n") } else { String::new() };
        (200, link, format!("{{\"name\":\"x\",\"tags\":[{}]}}", names.join(",")))
    })
}

#[test]
fn pages_are_followed_as_the_registry_links_them() {
    let home = Scratch::new("tags-pages");
    let expected: String = (0..10).map(|n| format!("v{n}\n")).collect();
    for style in [
        "<PATH?last=NEXT&n=3>; rel=\"next\"",
        "<http://OWNPATH?last=NEXT>; rel=\"next\"",
        "<?next_page=NEXT>; rel=next",
        "<list?token=NEXT>;rel=\"next\"",
        "</>; rel=\"first\", <PATH?a=b&NEXT>; rel=\"next\"",
        "<//OWNPATH?NEXT>; title=\"a, b\"; rel=\"last next\"",
    ] {
        let server = pages(style);
        assert_eq!(
            said(&tags(&home.0, &[&server.repository()])),
            (Some(0), expected.clone(), String::new()),
            "{style}"
        );
        assert_eq!(server.asked()[0].line, "GET /v2/team/app/tags/list");
        assert!(server.asked()[1].line.ends_with("at%3D3") || server.asked()[1].line.ends_with("at%3D3&n=3"));
    }
}

#[test]
fn answers_are_printed_as_lines_or_json() {
    let home = Scratch::new("tags-json");
    for (body, text, json) in [
        (r#"{"tags":["b","a"]}"#, "b\na\n", "\"Tags\": [\n    \"b\",\n    \"a\"\n  ]"),
        (r#"{"name":"x","tags":null}"#, "", "\"Tags\": []"),
        ("{}", "", "\"Tags\": []"),
    ] {
        let server = Server::new(move |_, _| ok(body));
        assert_eq!(said(&tags(&home.0, &[&server.repository()])), (Some(0), text.into(), String::new()));
        let (status, out, _) = said(&tags(&home.0, &["--json", &server.repository()]));
        assert!(status == Some(0) && out.contains(json), "{out}");
    }
}

#[test]
fn registries_that_lie_are_refused_with_the_reason() {
    let home = Scratch::new("tags-lies");
    type Answer = fn(&Asked, &str) -> (u16, String, String);
    for (case, answer, reason) in [
        ("not found", (|_, _| (404, String::new(), String::new())) as Answer, "no such repository"),
        ("status", |_, _| (500, String::new(), String::new()), "answers 500"),
        ("no JSON", |_, _| ok("<html>"), "malformed"),
        ("a tag with an escape", |_, _| ok(r#"{"tags":["a\u001b[2J"]}"#), "a\\x1b[2J is no tag"),
        ("a tag as an option", |_, _| ok(r#"{"tags":["-rf"]}"#), "-rf is no tag"),
        (
            "a page that repeats",
            |a, _| (200, format!("Link: <{}>; rel=\"next\"\r\n", a.line.split(' ').nth(1).unwrap()), "{}".into()),
            "repeat",
        ),
        ("redirects without end", |_, _| (302, "Location: ?\r\n".into(), String::new()), "more than 10 redirects"),
        (
            "a redirect to another host",
            |_, _| (302, "Location: http://localhost:1/x\r\n".into(), String::new()),
            "redirect to http://localhost:1 is refused",
        ),
        (
            "a link to another host",
            |_, _| (200, "Link: <http://169.254.169.254/x>; rel=\"next\"\r\n".into(), "{}".into()),
            "169.254.169.254 is refused",
        ),
        (
            "a link to another scheme",
            |_, own| (200, format!("Link: <https://{own}/x>; rel=\"next\"\r\n"), "{}".into()),
            "is refused",
        ),
        ("no way to authenticate", |_, _| (401, String::new(), String::new()), "names no way"),
        (
            "a password that there is not",
            |_, _| (401, "WWW-Authenticate: Basic realm=\"x\"\r\n".into(), String::new()),
            "asks for a user",
        ),
        (
            "a realm in the cloud",
            |_, _| (401, "WWW-Authenticate: Bearer realm=\"http://169.254.169.254/token\"\r\n".into(), String::new()),
            "its address is internal",
        ),
        (
            "a realm in the network",
            |_, _| (401, "WWW-Authenticate: Bearer realm=\"https://10.0.0.1/token\"\r\n".into(), String::new()),
            "its address is internal",
        ),
        (
            "a realm that is no URL",
            |_, _| (401, "WWW-Authenticate: Bearer realm=\"file:///etc/passwd\"\r\n".into(), String::new()),
            "realm",
        ),
        (
            "a realm without a token",
            |a, own| {
                if a.line.contains("token") {
                    ok("{}")
                } else {
                    (401, format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\"\r\n"), String::new())
                }
            },
            "gives no token",
        ),
    ] {
        let server = Server::new(answer);
        let (status, _, error) = said(&tags(&home.0, &[&server.repository()]));
        assert!(status == Some(1) && error.contains(reason), "{case}: {error}");
    }
}

/// A registry with a token server in it; tokens hold for two pages.
fn guarded(expected: &'static str) -> Server {
    let uses = Mutex::new((0, 0));
    Server::new(move |asked, own| {
        let mut uses = uses.lock().unwrap();
        let authorization = asked.authorization.clone().unwrap_or_default();
        if asked.line.starts_with("POST /token") && expected == "by GET" {
            return (405, String::new(), String::new());
        }
        if asked.line.contains("/token") {
            let is_known = match expected {
                "anonymous" => authorization.is_empty(),
                "identity" => asked.body.contains("refresh_token=secret") && asked.body.contains("client_id=berth"),
                "by GET" => authorization == "Basic PHRva2VuPjpzZWNyZXQ=",
                basic => authorization == basic,
            };
            if !is_known {
                return (403, String::new(), String::new());
            }
            *uses = (uses.0 + 1, 0);
            return ok(&format!("{{\"access_token\":\"t{}\"}}", uses.0));
        }
        uses.1 += 1;
        if uses.0 == 0 || uses.1 > 2 || authorization != format!("Bearer t{}", uses.0) {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"s\",scope=\"repository:team/app:pull\"\r\n"
            );
            return (401, challenge, String::new());
        }
        let at = asked.line.rsplit_once('=').map_or(0, |(_, at)| at.parse::<u32>().unwrap());
        let link = if at < 4 { format!("Link: <?at={}>; rel=next\r\n", at + 1) } else { String::new() };
        (200, link, format!("{{\"tags\":[\"v{at}\"]}}"))
    })
}

#[test]
fn tokens_are_had_with_each_kind_of_credentials() {
    let all = (Some(0), "v0\nv1\nv2\nv3\nv4\n".to_owned(), String::new());
    let helper = "#!/bin/sh\nread -r host\ncase $host in\n127.0.0.1:*) echo '{\"Username\":\"me\",\"Secret\":\"pw\"}';;\n*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
    for (case, expected, file) in [
        ("anonymous", "anonymous", "{}"),
        ("docker's file", "Basic bWU6cHc=", r#"{"auths":{"REGISTRY":{"auth":"bWU6cHc="}}}"#),
        (
            "a namespace",
            "Basic bWU6cHc=",
            r#"{"auths":{"REGISTRY/team":{"auth":"bWU6cHc="},"REGISTRY":{"auth":"eDp5"}}}"#,
        ),
        ("an identity token", "identity", r#"{"auths":{"REGISTRY":{"identitytoken":"secret"}}}"#),
        ("an identity token by GET", "by GET", r#"{"auths":{"REGISTRY":{"identitytoken":"secret"}}}"#),
        ("a helper", "Basic bWU6cHc=", r#"{"credHelpers":{"REGISTRY":"test"}}"#),
        ("a store", "Basic bWU6cHc=", r#"{"credsStore":"test"}"#),
        ("a helper that has none", "anonymous", r#"{"credHelpers":{"REGISTRY":"none"}}"#),
    ] {
        let home = Scratch::new("tags-auth");
        let server = guarded(expected);
        let script = |name: &str, text: &str| {
            let path = home.path(&format!("docker-credential-{name}"));
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("test", helper);
        script("none", &helper.replace("127.0.0.1:*", "other"));
        fs::create_dir(home.path(".docker")).unwrap();
        fs::write(home.path(".docker/config.json"), file.replace("REGISTRY", &server.address)).unwrap();
        assert_eq!(said(&tags(&home.0, &[&server.repository()])), all, "{case}");
        let tokens = server.asked().iter().filter(|asked| asked.line.starts_with("GET /token")).count();
        assert!(tokens >= 3 || expected == "identity", "{case}: a token that has expired is had anew: {tokens}");
    }
}

#[test]
fn helpers_that_fail_are_errors() {
    let home = Scratch::new("tags-helper");
    let server = Server::new(|_, _| ok("{}"));
    let path = home.path("docker-credential-bad");
    fs::write(&path, "#!/bin/sh\necho broken; exit 1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, reason) in [
        ("bad", "docker-credential-bad failed"),
        ("missing", "docker-credential-missing"),
        ("../bad", "no name of a helper"),
    ] {
        let file = home.path("auth.json");
        fs::write(&file, format!("{{\"credsStore\":\"{name}\"}}")).unwrap();
        let (status, _, error) = said(&tags(&home.0, &["--authfile", file.to_str().unwrap(), &server.repository()]));
        assert!(status == Some(1) && error.contains(reason), "{name}: {error}");
    }
    assert!(server.asked().is_empty());
}

/// The password and the token go to the registry and its realm alone, in each of these cases.
#[test]
fn credentials_are_sent_to_no_other_origin() {
    let home = Scratch::new("tags-leak");
    for style in ["redirect", "link", "redirect of the realm", "realm of another scheme"] {
        let other = Server::new(|_, _| ok(r#"{"tags":["stolen"],"token":"stolen"}"#));
        let target = other.address.clone();
        let server = Server::new(move |asked, own| {
            let challenge =
                |realm: &str| (401, format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"), String::new());
            let elsewhere = || (307, format!("Location: http://{target}/x\r\n"), String::new());
            match (style, asked.line.contains("/token"), asked.authorization.is_some()) {
                ("redirect of the realm", true, _) => elsewhere(),
                (_, true, _) => ok(r#"{"token":"t"}"#),
                ("realm of another scheme", ..) => challenge("ftp://127.0.0.1/token"),
                (_, _, false) => challenge(&format!("http://{own}/token")),
                ("redirect", ..) => elsewhere(),
                _ => (200, format!("Link: <http://{target}/x>; rel=\"next\"\r\n"), r#"{"tags":["a"]}"#.into()),
            }
        });
        let file = home.path("auth.json");
        fs::write(&file, format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6cHc=\"}}}}}}", server.address)).unwrap();
        let (status, out, error) = said(&tags(&home.0, &["--authfile", file.to_str().unwrap(), &server.repository()]));
        assert_eq!(status, Some(1), "{style}: {error}");
        assert!(!out.contains("stolen"), "{style}");
        assert!(other.asked().is_empty(), "{style}: {:?}", other.asked());
    }
}

//! Tokens: how a challenge of a registry becomes an `Authorization` header.
//!
//! A registry names the token server (the realm), and a hostile one could name any: so the realm has to be https (unless the
//! registry itself speaks http), and no address of this machine or its network, where clouds have their metadata, unless
//! it is the registry's own (CVE-2020-15157, CVE-2026-48978). Credentials of the user go to the realm, as the protocol
//! has it, and to no third place.

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_runtime::{Context, Error, Kind, Result};
use serde::Deserialize;
use ureq::http::{StatusCode, header::WWW_AUTHENTICATE};

use super::{
    credentials::Credentials,
    headers::{Challenge, challenges},
    http::{Authorization, Client, Reply},
    name::Repository,
    url::Url,
};
use crate::source::nullable;

/// Bytes of a token server's answer.
const BOUND: u64 = 1 << 20;
const CLIENT: &str = "berth";

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "nullable")]
    token: String,
    #[serde(default, deserialize_with = "nullable")]
    access_token: String,
}

/// Answers the challenges of a 401.
///
/// # Errors
/// The registry asks for credentials that there are none of, or in an unknown way; the realm is refused; or the token
/// server gives no token.
pub fn answer(
    client: &Client,
    repository: &Repository,
    refused: &Reply,
    credentials: Option<&Credentials>,
) -> Result<Authorization> {
    let found = challenges(refused.values(WWW_AUTHENTICATE));
    let of = |scheme: &str| found.iter().find(|challenge| challenge.scheme == scheme);
    let value = match (of("bearer"), of("basic"), credentials) {
        (_, _, Some(Credentials::Bearer(token))) => format!("Bearer {token}"),
        (Some(challenge), _, _) => {
            let token = token(client, repository, challenge, credentials).context("token server")?;
            format!("Bearer {token}")
        }
        (None, Some(_), Some(Credentials::Basic(user, password))) => basic(user, password),
        (None, Some(_), _) => {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("{} asks for a user and a password, and there are none", repository.registry),
            ));
        }
        (None, None, _) => {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("{} refuses and names no way to authenticate that is known", repository.registry),
            ));
        }
    };
    Ok(Authorization { origin: repository.origin.clone(), value })
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Gets a token for reading the repository.
fn token(
    client: &Client,
    repository: &Repository,
    challenge: &Challenge,
    credentials: Option<&Credentials>,
) -> Result<String> {
    let parameter = |name: &str| challenge.parameters.get(name).cloned().unwrap_or_default();
    let realm = checked(repository, &parameter("realm"))?;
    let service = parameter("service");
    let scope = match parameter("scope") {
        scope if scope.is_empty() => format!("repository:{}:pull", repository.path),
        scope => scope,
    };
    if let Some(Credentials::Identity(identity)) = credentials {
        let form = [
            ("grant_type", "refresh_token"),
            ("service", service.as_str()),
            ("client_id", CLIENT),
            ("scope", scope.as_str()),
            ("refresh_token", identity.as_str()),
        ];
        let reply = client.post(&realm, &form, BOUND)?;
        // Some servers have the older way alone.
        if !matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return read(&reply);
        }
    }
    let authorization = match credentials {
        Some(Credentials::Basic(user, password)) => Some(basic(user, password)),
        Some(Credentials::Identity(identity)) => Some(basic("<token>", identity)),
        _ => None,
    };
    let authorization = authorization.map(|value| Authorization { origin: realm.origin.clone(), value });
    let sign = if realm.rest.contains('?') { '&' } else { '?' };
    let query = format!("{sign}service={}&scope={}", encoded(&service), encoded(&scope));
    let url = Url { rest: realm.rest + &query, origin: realm.origin };
    read(&client.get(&url, authorization.as_ref(), BOUND)?)
}

/// The realm as a URL, if it may be asked.
fn checked(repository: &Repository, realm: &str) -> Result<Url> {
    let url = Url::parse(realm).context("realm")?;
    let is_own = url.origin == repository.origin;
    let is_here = url.origin.is_loopback() && repository.origin.is_loopback();
    let refused = if !url.origin.is_https && repository.origin.is_https {
        "it is not https"
    } else if !is_own && url.origin.is_internal() && !is_here {
        "its address is internal"
    } else if !is_own && !url.origin.is_https && !url.origin.is_loopback() {
        "it is not https"
    } else {
        return Ok(url);
    };
    Err(Error::new(Kind::FailedPrecondition, format!("realm {} is refused: {refused}", url.origin)))
}

fn read(reply: &Reply) -> Result<String> {
    if reply.status != StatusCode::OK {
        return Err(Error::new(Kind::FailedPrecondition, format!("{} answers {}", reply.url.origin, reply.status)));
    }
    let answer: Answer = serde_json::from_slice(&reply.body)
        .map_err(|_| Error::invalid(format!("{}: the answer is malformed", reply.url.origin)))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(format!("{} gives no token", reply.url.origin)));
    }
    Ok(token)
}

/// Percent-encodes a value of a query, but for what scopes are usually written with.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

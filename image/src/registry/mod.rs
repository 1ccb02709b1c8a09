//! `tags`: the tags of a repository, as its registry has them (distribution-spec, "Listing Tags").
//!
//! Main path: [`list`] asks for a page, answers a challenge once with a token of [`auth`], prints the page, and follows the
//! registry's link to the next one. The link is followed as given, inside the registry's origin. A short page is not the
//! end: the link alone says so.

mod auth;
mod credentials;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod headers;
mod http;
mod name;
mod url;

use std::{
    collections::HashSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use berth_runtime::{Error, Kind, Result};
use serde::Deserialize;
use ureq::http::{StatusCode, header::LINK};

use self::{
    credentials::Credentials,
    headers::next_link,
    http::{Authorization, Client, Reply},
    name::Repository,
    url::Url,
};
use crate::{source::nullable, text::escaped};

/// Bytes of a page.
const PAGE: u64 = 16 << 20;
/// Pages of a list.
const PAGES: usize = 10_000;
/// Bytes of all pages of a list together.
const LIST: usize = 256 << 20;
/// Bytes of the address of a page.
const ADDRESS: usize = 8 << 10;
/// The time limit of a list.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The caller's request.
#[derive(Debug, Default)]
pub struct Request {
    /// `[HOST[:PORT]/]PATH`.
    pub repository: String,
    /// The registry speaks http.
    pub plain_http: bool,
    /// A file of certificates in PEM that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// The file of credentials.
    pub authfile: Option<PathBuf>,
    /// A user and a password.
    pub login: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "nullable")]
    tags: Vec<String>,
}

/// Hands the tags to `print`, page by page, in the registry's order.
///
/// # Errors
/// The registry has no such repository, refuses, cannot be reached, or answers what it must not. What came before has been
/// printed then.
pub fn list(request: &Request, print: &mut dyn FnMut(&[String]) -> Result<()>) -> Result<()> {
    let repository = Repository::parse(&request.repository, request.plain_http)?;
    let credentials = match &request.login {
        Some((user, password)) => Some(Credentials::Basic(user.clone(), password.clone())),
        None => credentials::find(&repository, request.authfile.as_deref())?,
    };
    let client = Client::new(request.ca.as_deref())?;
    let mut session = Session { client, repository, credentials, authorization: None };
    let mut url =
        Url { origin: session.repository.origin.clone(), rest: format!("/v2/{}/tags/list", session.repository.path) };
    let mut seen = HashSet::new();
    let (mut bytes, begun) = (0_usize, Instant::now());
    loop {
        if !seen.insert(url.to_string()) {
            return Err(refused(format!("{url}: the registry's pages repeat")));
        }
        if seen.len() > PAGES {
            return Err(refused(format!("more than {PAGES} pages")));
        }
        if begun.elapsed() > PATIENCE {
            return Err(refused(format!("the list has not ended within {} s", PATIENCE.as_secs())));
        }
        let reply = session.get(&url)?;
        bytes = bytes.saturating_add(reply.body.len());
        if bytes > LIST {
            return Err(refused(format!("the list has more than {LIST} bytes")));
        }
        let page: Page = serde_json::from_slice(&reply.body)
            .map_err(|e| Error::invalid(format!("{url}: the answer is malformed: {e}")))?;
        if let Some(tag) = page.tags.iter().find(|tag| !is_tag(tag)) {
            return Err(Error::invalid(format!("{url}: {} is no tag", escaped(tag.as_bytes()))));
        }
        print(&page.tags)?;
        let Some(link) = next_link(reply.values(LINK)) else { return Ok(()) };
        if link.len() > ADDRESS {
            return Err(refused(format!("the address of the next page has more than {ADDRESS} bytes")));
        }
        let next = reply.url.join(&link)?;
        if next.origin != session.repository.origin {
            return Err(refused(format!("the next page at {} is refused: another scheme, host or port", next.origin)));
        }
        url = next;
    }
}

/// Returns true if the text is a tag. Lists of tags end in shells, so nothing else is printed.
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn refused(text: String) -> Error {
    Error::new(Kind::FailedPrecondition, text)
}

/// A registry and what it has been told about the caller.
struct Session {
    client: Client,
    repository: Repository,
    credentials: Option<Credentials>,
    authorization: Option<Authorization>,
}

impl Session {
    /// GET; a 401 is answered once, also for a token that has expired in the middle of a list.
    fn get(&mut self, url: &Url) -> Result<Reply> {
        let mut reply = self.client.get(url, self.authorization.as_ref(), PAGE)?;
        if reply.status == StatusCode::UNAUTHORIZED {
            let answer = auth::answer(&self.client, &self.repository, &reply, self.credentials.as_ref())?;
            self.authorization = Some(answer);
            reply = self.client.get(url, self.authorization.as_ref(), PAGE)?;
        }
        match reply.status {
            StatusCode::OK => Ok(reply),
            StatusCode::NOT_FOUND => {
                Err(Error::new(Kind::NotFound, format!("{}: no such repository", self.repository.path)))
            }
            status => Err(refused(format!("{} answers {status}", self.repository.origin))),
        }
    }
}

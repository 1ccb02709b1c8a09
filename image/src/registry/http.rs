//! HTTP as registries need it: bounded answers, bounded time, and no redirect to another origin.

use std::{path::Path, sync::Arc, time::Duration};

use berth_runtime::{Context, Error, Kind, Result};
use ureq::{
    Agent, Proxy,
    http::{HeaderMap, StatusCode, header},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider},
};

use super::url::{Origin, Url};

/// The time limits of a connection, and of a whole call.
const CONNECT: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(120);
/// Redirects of one call.
const REDIRECTS: usize = 10;

/// An `Authorization` header, and the origin that it is for. It is sent nowhere else.
#[derive(Clone)]
pub struct Authorization {
    /// The origin that may see it.
    pub origin: Origin,
    /// The header's value.
    pub value: String,
}

/// An answer.
pub struct Reply {
    /// The URL that gave it, after redirects.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The values of a header.
    pub fn values(&self, name: header::HeaderName) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }
}

/// A client.
pub struct Client {
    /// Calls through the proxy of the environment, if there is one.
    proxied: Agent,
    /// Calls this machine: a proxy's loopback device is another one, and would see the credentials.
    direct: Agent,
}

impl Client {
    /// A client that trusts the system's roots (`$SSL_CERT_FILE`, `$SSL_CERT_DIR`, else the host's) and those in `ca`.
    /// Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`), never for a loopback address.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate.
    pub fn new(ca: Option<&Path>) -> Result<Self> {
        let mut roots: Vec<_> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        if let Some(path) = ca {
            let named = || format!("--ca {}", path.display());
            let own = certificates(&std::fs::read(path).with_context(named)?).with_context(named)?;
            roots.extend(own);
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = |proxy| -> Agent {
            Agent::config_builder()
                .tls_config(tls.clone())
                .proxy(proxy)
                .user_agent(format!("berth/{}", berth_version::VERSION))
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .timeout_connect(Some(CONNECT))
                .timeout_global(Some(CALL))
                .build()
                .into()
        };
        Ok(Self { proxied: agent(Proxy::try_from_env()), direct: agent(None) })
    }

    fn agent(&self, url: &Url) -> &Agent {
        if url.origin.is_loopback() { &self.direct } else { &self.proxied }
    }

    /// GET, with a body of at most `bound` bytes. `authorization` goes to its own origin alone, and redirects that leave the
    /// origin are refused, so that neither a registry nor a token server can send this client elsewhere.
    ///
    /// # Errors
    /// No connection, no answer in time, too large a body, or a redirect that is refused.
    pub fn get(&self, url: &Url, authorization: Option<&Authorization>, bound: u64) -> Result<Reply> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent(&url).get(url.to_string()).header("Accept", "application/json");
            if let Some(authorization) = authorization.filter(|authorization| authorization.origin == url.origin) {
                request = request.header("Authorization", &authorization.value);
            }
            let reply = reply(url.clone(), request.call(), bound)?;
            if !reply.status.is_redirection() {
                return Ok(reply);
            }
            let target = reply.values(header::LOCATION).next().unwrap_or_default();
            let target = url.join(target).with_context(|| format!("{url}: redirect"))?;
            if target.origin != url.origin {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    format!("{url}: redirect to {} is refused: another scheme, host or port", target.origin),
                ));
            }
            url = target;
        }
        Err(Error::new(Kind::FailedPrecondition, format!("{url}: more than {REDIRECTS} redirects")))
    }

    /// POST of a form, without redirects.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, url: &Url, form: &[(&str, &str)], bound: u64) -> Result<Reply> {
        let request = self.agent(url).post(url.to_string()).header("Accept", "application/json");
        reply(url.clone(), request.send_form(form.iter().copied()), bound)
    }
}

fn reply(url: Url, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>, bound: u64) -> Result<Reply> {
    let failed = |e: ureq::Error| Error::new(Kind::Internal, format!("{url}: {e}"));
    let mut answer = answer.map_err(failed)?;
    let body = answer.body_mut().with_config().limit(bound).read_to_vec().map_err(failed)?;
    let (parts, _) = answer.into_parts();
    Ok(Reply { url, status: parts.status, headers: parts.headers, body })
}

/// The certificates of a PEM file.
fn certificates(text: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(Error::invalid(e.to_string())),
        }
    }
    if found.is_empty() { Err(Error::invalid("there is no certificate in it")) } else { Ok(found) }
}

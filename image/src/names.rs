//! The names of images and repositories: `[HOST[:PORT]/]PATH`.

/// The default registry, by the name that images have.
pub const DEFAULT: &str = "docker.io";

/// Splits a name into its host and the rest; `None` if it has no host. As for docker, the part before the first `/` is a
/// host if it has a dot or a colon or is `localhost`.
pub fn split_host(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
}

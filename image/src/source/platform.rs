//! The choice of an index's image for this machine.

use berth_runtime::{Error, Result};

use super::types::Descriptor;

/// An operating system, an architecture and its variant, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// The platform of this program.
    pub fn own() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            same => (same, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// Reads `OS/ARCHITECTURE[/VARIANT]`.
    ///
    /// # Errors
    /// Not of that form.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split('/').collect();
        let (os, architecture, variant) = match *parts.as_slice() {
            [os, architecture] => (os, architecture, if architecture == "arm64" { "v8" } else { "" }),
            [os, architecture, variant] => (os, architecture, variant),
            _ => return Err(Error::invalid(format!("{text:?} is no platform of the form OS/ARCHITECTURE/VARIANT"))),
        };
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }

    /// Rates a descriptor: the lower the number, the better the fit; `None` if the descriptor does not fit. A descriptor without a platform fits
    /// last. Of the variants of arm, lower ones run on higher processors.
    pub fn fits(&self, descriptor: &Descriptor) -> Option<u32> {
        if descriptor.annotations.contains_key("vnd.docker.reference.type") {
            return None;
        }
        let Some(platform) = &descriptor.platform else { return Some(100) };
        if platform.os != self.os || platform.architecture != self.architecture {
            return None;
        }
        let level = |variant: &str| variant.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        match (self.variant.as_str(), platform.variant.as_str()) {
            (ours, theirs) if ours == theirs => Some(0),
            (ours, theirs) => {
                let ours = if ours.is_empty() { Some(default) } else { level(ours) }?;
                let theirs = if theirs.is_empty() { Some(default.min(ours)) } else { level(theirs) }?;
                ours.checked_sub(theirs)
            }
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_run_on_processors_of_their_level_or_above() {
        let fits = |ours: &str, json: &str| {
            let text = format!("{{\"digest\":\"\",\"size\":0,{json}}}");
            Platform::parse(ours).unwrap().fits(&serde_json::from_str(&text).unwrap())
        };
        let of = |arch: &str, variant: &str| {
            format!("\"platform\":{{\"os\":\"linux\",\"architecture\":\"{arch}\",\"variant\":\"{variant}\"}}")
        };
        assert_eq!(fits("linux/amd64", &of("amd64", "")), Some(0));
        assert_eq!(fits("linux/amd64", &of("amd64", "v3")), None);
        assert_eq!(fits("linux/amd64/v3", &of("amd64", "v2")), Some(1));
        assert_eq!(fits("linux/arm64", &of("arm64", "")), Some(0));
        assert_eq!(fits("linux/arm64", &of("arm64", "v8")), Some(0));
        assert_eq!(fits("linux/arm/v7", &of("arm", "v6")), Some(1));
        assert_eq!(fits("linux/arm/v6", &of("arm", "v7")), None);
        assert_eq!(fits("linux/amd64", &of("unknown", "")), None);
        assert_eq!(fits("linux/amd64", "\"annotations\":{\"vnd.docker.reference.type\":\"a\"}"), None);
        assert_eq!(fits("linux/amd64", "\"platform\":null"), Some(100));
        assert!(Platform::parse("linux").is_err());
    }
}

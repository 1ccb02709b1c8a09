//! `linux.resources`, checked and translated for one version of the cgroup interface.

use oci_spec::runtime::LinuxResources;

use super::{
    check,
    devices::rules::{self, Rule},
    location::Hierarchy,
    row::Row,
    v1, v2,
};
use crate::error::{Context, Result};

/// The limits and device rules of a new container. They are computed once, before anything is made.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The files to write, in the order that the kernel accepts.
    pub(super) rows: Vec<Row>,
    /// The rules of the container, followed by the default rules.
    pub(super) rules: Vec<Rule>,
    /// A limit needs a v2 controller that is not threaded (cgroups(7), "domain controllers").
    pub(super) needs_domain: bool,
    /// Messages about letters in device rules that mean nothing.
    warnings: Vec<String>,
}

impl Limits {
    /// Checks `resources` (`linux.resources` of config.json) and translates them.
    ///
    /// # Errors
    /// A value that is out of range, or that this version of the cgroup interface does not have. The error names the field.
    pub fn new(hierarchy: Hierarchy, resources: &LinuxResources) -> Result<Self> {
        let rules = rules::rules(resources).context("linux.resources.devices")?;
        check::check(resources, "linux.resources")?;
        let rows = match hierarchy {
            Hierarchy::V1 => {
                v1::limits::check(resources)?;
                v1::limits::rows(resources)
            }
            Hierarchy::V2 => {
                v2::limits::check(resources)?;
                v2::limits::rows(resources)
            }
        };
        Ok(Self {
            rows,
            rules,
            needs_domain: v2::limits::needs_domain(resources),
            warnings: rules::warnings(resources),
        })
    }

    /// Messages for the user about parts of the rules that have no effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether there is nothing to write but device rules.
    pub(super) fn has_no_rows(&self) -> bool {
        self.rows.is_empty()
    }
}

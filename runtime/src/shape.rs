//! Where config.json has objects. What serde derives for a structure also reads a list, member by member, so that `[]`
//! would be a structure of defaults and `[1]` a memory limit: here nothing but an object is one. All else of the file is
//! passed over.
#![allow(dead_code, reason = "members are read for the reading's sake")]

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, value::MapAccessDeserializer},
};

/// An object of this shape.
struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|_| Object(PhantomData))
            }
        }
        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// Of whatever members.
type Any = Object<IgnoredAny>;
type One = Option<Any>;
type Many = Option<Vec<Any>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    process: Option<Object<Process>>,
    root: One,
    mounts: Many,
    hooks: Option<Object<Hooks>>,
    linux: Option<Object<Linux>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    user: One,
    console_size: One,
    capabilities: One,
    rlimits: Many,
    scheduler: One,
    io_priority: One,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: One,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hooks {
    prestart: Many,
    create_runtime: Many,
    create_container: Many,
    start_container: Many,
    poststart: Many,
    poststop: Many,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Many,
    devices: Many,
    uid_mappings: Many,
    gid_mappings: Many,
    resources: Option<Object<Resources>>,
    seccomp: Option<Object<Seccomp>>,
    personality: One,
    memory_policy: One,
    intel_rdt: One,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    devices: Many,
    memory: One,
    cpu: One,
    pids: One,
    #[serde(rename = "blockIO")]
    block_io: One,
    hugepage_limits: Many,
    network: One,
}

#[derive(Deserialize)]
struct Seccomp {
    syscalls: Many,
}

/// What a document is read as.
pub trait Shaped {
    /// Reads it for its shape alone.
    ///
    /// # Errors
    /// Something else stands where an object belongs.
    fn look<'de, D: Deserializer<'de>>(document: D) -> Result<(), D::Error>;
}

impl Shaped for oci_spec::runtime::Spec {
    fn look<'de, D: Deserializer<'de>>(document: D) -> Result<(), D::Error> {
        Object::<Spec>::deserialize(document).map(drop)
    }
}

impl Shaped for oci_spec::runtime::Process {
    fn look<'de, D: Deserializer<'de>>(document: D) -> Result<(), D::Error> {
        Object::<Process>::deserialize(document).map(drop)
    }
}

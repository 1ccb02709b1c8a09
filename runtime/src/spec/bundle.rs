//! Loads a bundle: reads config.json once, and checks it before anything is created.
//!
//! The types are oci-spec's. A typical config.json is parsed directly into them. If that fails, a second pass names the
//! faulty field, drops unknown capabilities with a warning (as the spec requires), and treats `null` and a missing
//! `process.user` as Go programs do, because Go programs wrote most of these files.

use std::{
    borrow::Cow,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxResources, Mount, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    Context, Error, Kind, Result,
    leaves::{
        caps, mount,
        scheduling::{MEMORY_FLAGS, MEMORY_MODES},
    },
    spec::{check, go_json, json_place::path_of_byte, strict_json::RejectSeqForStruct},
};

/// Members of config.json for other platforms.
const FOREIGN: [&str; 5] = ["freebsd", "solaris", "vm", "windows", "zos"];
/// Largest accepted config.json, in bytes.
const MAX: u64 = 64 << 20;

/// A bundle whose config.json has been read and checked.
pub struct Bundle {
    /// The absolute path of the bundle directory.
    pub dir: PathBuf,
    /// The parsed config.json.
    pub spec: Spec,
    /// Warnings for the user: unknown capabilities, ignored settings, relative destinations.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Reads and checks `<dir>/config.json`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without a config.json. [`Kind::InvalidArgument`] with the name of the field.
    /// [`Kind::Unsupported`] for a field that this build refuses.
    pub fn load(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).with_context(|| format!("bundle {}", dir.display()))?;
        let json = read_config(&dir)?;
        Self::from_json(dir, &json)
    }

    /// Checks the config.json of the bundle in `dir`.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn from_json(dir: PathBuf, json: &[u8]) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut spec: Spec = parse(json, "process", &mut warnings).context("config.json")?;
        if let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) {
            drop_absent_pids_limit(resources, json, "/linux/resources");
        }
        mount::translate_idmaps(&mut spec).context("config.json")?;
        check::spec(&spec).context("config.json")?;
        warnings.extend(warnings_of(&spec));
        let personality = spec.linux().as_ref().and_then(|l| l.personality().as_ref());
        if let Some(flags) = personality.and_then(|p| p.flags().as_ref()).filter(|f| !f.is_empty()) {
            warnings.push(format!("linux.personality.flags: ignoring unsupported personality flags: {flags:?}"));
        }
        warnings.extend(caps::warnings(spec.process().as_ref().and_then(|process| process.capabilities().as_ref())));
        Ok(Self { dir, spec, warnings })
    }

    /// Returns `process.terminal`: the container's process gets a terminal.
    pub fn terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal) == Some(true)
    }

    /// Overrides `process.terminal`. containerd's Create request decides about the terminal, whatever config.json says.
    pub fn set_terminal(&mut self, terminal: bool) {
        if let Some(process) = self.spec.process_mut() {
            process.set_terminal(Some(terminal));
        }
    }

    /// Adds variables (`NAME=value`) to the environment of the container's process.
    pub fn add_env(&mut self, variables: Vec<String>) {
        if let Some(process) = self.spec.process_mut().as_mut().filter(|_| !variables.is_empty()) {
            let mut env = process.env().clone().unwrap_or_default();
            env.extend(variables);
            process.set_env(Some(env));
        }
    }
}

/// Returns a warning for each setting that berth does not apply as written.
fn warnings_of(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| !mount.destination().is_absolute());
    let mut warnings: Vec<_> = mounts
        .map(|(n, mount)| {
            format!("mounts[{n}].destination: {} is not absolute, taken from /", mount.destination().display())
        })
        .collect();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(memory) = resources.and_then(|resources| resources.memory().as_ref())
        && memory.kernel().or(memory.kernel_tcp()).is_some_and(|bytes| bytes != 0)
    {
        // runc prints the same words.
        warnings.push("Kernel memory settings are ignored and will be removed".to_owned());
    }
    warnings
}

/// Reads a bundle's config.json.
fn read_config(bundle: &Path) -> Result<Vec<u8>> {
    read_file(&bundle.join("config.json"))
}

/// Reads and checks the process.json of `exec --process`.
///
/// # Errors
/// As [`Bundle::load`].
pub fn load_process(path: &Path) -> Result<Process> {
    parse_process(&read_file(path)?).with_context(|| path.display().to_string())
}

/// Reads the list of mounts of `mounts add` and `mounts remove`.
///
/// # Errors
/// As [`Bundle::load`].
pub fn load_mounts(path: &Path) -> Result<Vec<Mount>> {
    parse(&read_file(path)?, "", &mut Vec::new()).with_context(|| path.display().to_string())
}

/// Parses and checks a `process` object.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
pub fn parse_process(json: &[u8]) -> Result<Process> {
    let process = parse(json, "", &mut Vec::new())?;
    check::process(&process)?;
    Ok(process)
}

/// Parses the `linux.resources` object of an update.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    let mut resources = parse(json, "", &mut Vec::new())?;
    drop_absent_pids_limit(&mut resources, json, "");
    Ok(resources)
}

/// Removes `pids` if its limit is absent. The spec has allowed that since 1.3, and absence means no limit. oci-spec
/// 0.10 reads it as 0, which is a limit.
fn drop_absent_pids_limit(resources: &mut LinuxResources, json: &[u8], at: &str) {
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        let whole: Value = go_json::read(json).unwrap_or_default();
        if whole.pointer(&format!("{at}/pids/limit")).is_none_or(Value::is_null) {
            resources.set_pids(None);
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if path.ends_with("config.json") => {
            Error::new(Kind::NotFound, "JSON specification file config.json not found")
        }
        _ => Error::from(e).context(format!("open {}", path.display())),
    })?;
    // The capacity of one byte more lets read(2) find the end without another allocation.
    let size = file.metadata().map_or(0, |meta| meta.len());
    if size > MAX {
        return Err(Error::invalid(format!("{}: larger than {MAX} bytes", path.display())));
    }
    let mut json = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX + 1).read_to_end(&mut json).with_context(|| format!("read {}", path.display()))?;
    match u64::try_from(json.len()) {
        Ok(len) if len <= MAX => Ok(json),
        _ => Err(Error::invalid(format!("{}: larger than {MAX} bytes", path.display()))),
    }
}

fn parse<T: DeserializeOwned>(json: &[u8], process: &str, warnings: &mut Vec<String>) -> Result<T> {
    if let Ok(value) = decode(json) {
        return Ok(value);
    }
    if let Cow::Owned(json) = go_json::repaired(json) {
        return parse(&json, process, warnings);
    }
    let mut value: Value = serde_json::from_slice(json).map_err(|e| Error::invalid(e.to_string()))?;
    drop_nulls(&mut value);
    if let Some(whole) = value.as_object_mut().filter(|_| !process.is_empty()) {
        // The content does not matter on Linux (config.md, "Platform-specific configuration").
        FOREIGN.iter().for_each(|block| drop(whole.remove(*block)));
    }
    let object = if process.is_empty() { Some(&mut value) } else { value.get_mut(process) };
    if let Some(Value::Object(object)) = object {
        object.entry("user").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(Value::Object(sets)) = object.get_mut("capabilities") {
            drop_unknown_capabilities(sets, warnings);
        }
        respell(object);
        check_cpu_lists(object, process)?;
    }
    if let Some(policy) = value.get("linux").and_then(|linux| linux.get("memoryPolicy")) {
        check_memory_policy(policy)?;
    }
    // The text is decoded as the first one was: another source of values would be a second decoder in the program.
    let json = value.to_string();
    decode(json.as_bytes()).map_err(|e| {
        let text = e.to_string();
        let text = text.strip_suffix(&format!(" at line {} column {}", e.line(), e.column())).unwrap_or(&text);
        // The decoder stops behind a scalar and at the end of an object, and before a list or an object of the wrong type.
        let at = match e.column().checked_sub(1) {
            Some(last) if matches!(json.as_bytes().get(last), Some(b':' | b',' | b'[')) => last + 1,
            last => last.unwrap_or(0),
        };
        match path_of_byte(&value, at).as_str() {
            "" => Error::invalid(text.to_owned()),
            path => Error::invalid(format!("{path}: {text}")),
        }
    })
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let mut text = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(RejectSeqForStruct(&mut text))?;
    text.end()?;
    Ok(value)
}

/// Removes members that are `null`, which Go treats as absent. In an array `null` stays and is an error.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, member| !member.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(array) => array.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Rewrites values that the spec allows, and that oci-spec 0.10 does not parse or spells in another way.
fn respell(process: &mut serde_json::Map<String, Value>) {
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => {}
        }
    }
    if let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) {
        // Go's parser in runc ignores spaces and empty members, and takes an empty list as none.
        affinity.retain(|_, text| text.as_str() != Some(""));
        for text in affinity.values_mut() {
            let Some(list) = text.as_str() else { continue };
            let members: Vec<_> = list.split(',').map(str::trim).filter(|member| !member.is_empty()).collect();
            *text = members.join(",").into();
        }
    }
}

/// Checks `execCPUAffinity` as oci-spec does, whose error comes too late to name the member. `process` is the path of the
/// object that has it.
fn check_cpu_lists(object: &serde_json::Map<String, Value>, process: &str) -> Result<()> {
    let dot = if process.is_empty() { "" } else { "." };
    let is_list = |text: &str| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        text.split(',').all(|part| part.split_once('-').map_or(is_number(part), |(a, b)| is_number(a) && is_number(b)))
    };
    let affinity = object.get("execCPUAffinity").and_then(Value::as_object);
    let wrong = affinity.into_iter().flatten().find(|(_, list)| list.as_str().is_some_and(|text| !is_list(text)));
    wrong.map_or(Ok(()), |(name, list)| {
        let list = list.as_str().unwrap_or_default();
        let text = format!("{process}{dot}execCPUAffinity.{name}: Invalid execCPUAffinity format: {list}");
        Err(Error::invalid(text))
    })
}

/// Checks `linux.memoryPolicy` with runc's error texts in place of serde's.
fn check_memory_policy(policy: &Value) -> Result<()> {
    let known = |words: &str, word: &Value| word.as_str().is_some_and(|word| words.split(' ').any(|w| w == word));
    let mode = policy.get("mode").unwrap_or(&Value::Null);
    if !known(MEMORY_MODES, mode) {
        let mode = mode.as_str().unwrap_or_default();
        return Err(Error::invalid(format!("linux.memoryPolicy.mode: invalid memory policy mode {mode:?}")));
    }
    let flags = policy.get("flags").and_then(Value::as_array).into_iter().flatten();
    match flags.into_iter().find(|flag| !known(MEMORY_FLAGS, flag)) {
        Some(flag) => Err(Error::invalid(format!("linux.memoryPolicy.flags: invalid memory policy flag {flag}"))),
        None => Ok(()),
    }
}

fn drop_unknown_capabilities(sets: &mut serde_json::Map<String, Value>, warnings: &mut Vec<String>) {
    for names in sets.values_mut().filter_map(Value::as_array_mut) {
        names.retain(|name| {
            let Some(text) = name.as_str() else { return true };
            let known = serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
            if !known {
                let warning = format!("ignoring unknown or unavailable capabilities: [{text}]");
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
            known
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> (Result<Spec>, Vec<String>) {
        let mut warnings = Vec::new();
        let spec = parse(json.as_bytes(), "process", &mut warnings);
        (spec, warnings)
    }

    #[test]
    fn absent_fields_of_config_json_stay_absent() {
        let (spec, _) = spec(r#"{"ociVersion":"1.0.2","linux":{}}"#);
        let spec = spec.unwrap();
        assert!(spec.hostname().is_none() && spec.process().is_none() && spec.mounts().is_none());
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.namespaces().is_none() && linux.masked_paths().is_none() && linux.resources().is_none());
    }

    #[test]
    fn config_json_errors_name_the_field() {
        for (json, field) in [
            (
                r#"{"ociVersion":"1","linux":{"namespaces":[{"type":"pid"},{"type":"warp"}]}}"#,
                "linux.namespaces[1].type",
            ),
            (r#"{"ociVersion":"1","process":{"cwd":7,"user":{}}}"#, "process.cwd"),
            (
                r#"{"ociVersion":"1","process":{"cwd":"/","user":{},"execCPUAffinity":{"initial":"0","final":"x"}}}"#,
                "process.execCPUAffinity.final: Invalid",
            ),
            (r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":4294967296}}}"#, "process.user.uid"),
            (r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":-1}}}"#, "process.user.uid"),
            (
                r#"{"ociVersion":"1","linux":{"seccomp":{"defaultAction":"SCMP_ACT_MAYBE"}}}"#,
                "linux.seccomp.defaultAction",
            ),
        ] {
            let error = spec(json).0.unwrap_err();
            assert!(error.to_string().starts_with(field), "{json}: {error}");
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
        for (json, field) in [
            (r#"{"ociVersion":"1","linux":[]}"#, "linux: invalid type: sequence, expected struct Linux"),
            (r#"{"ociVersion":"1","hooks":{"poststop":[["/a"]]}}"#, "hooks.poststop[0]: invalid type"),
            (r#"{"ociVersion":"1","linux":{"resources":{"memory":[1]}}}"#, "linux.resources.memory: invalid type"),
            (r#"["1"]"#, "invalid type: sequence"),
        ] {
            let error = spec(json).0.unwrap_err().to_string();
            assert!(error.starts_with(field), "{json}: {error}");
        }
        assert!(spec("{\"ociVersion\":").0.unwrap_err().to_string().contains("line 1"));
        assert!(spec("").0.is_err() && spec("null").0.is_err() && spec("7").0.is_err());
    }

    #[test]
    fn null_members_are_absent_as_in_go() {
        for json in [
            r#"{"ociVersion":"1","process":{"cwd":"/","args":["a"]}}"#,
            r#"{"ociVersion":"1","process":{"cwd":"/","args":["a"],"user":null,"env":null}}"#,
            r#"{"ociVersion":"1","process":{"cwd":"/","args":["a"],"user":{"uid":null}},"hooks":null}"#,
        ] {
            let process = spec(json).0.unwrap().process().clone().unwrap();
            assert_eq!((process.user().uid(), process.user().gid()), (0, 0), "{json}");
        }
        assert!(spec(r#"{"ociVersion":"1","process":{"cwd":"/","args":[null]}}"#).0.is_err());
        assert!(parse_process(br#"{"cwd":"/","args":["a"]}"#).is_ok());
    }

    #[test]
    fn absent_pids_limit_is_unlimited_and_zero_is_a_limit() {
        for (json, limit) in [
            (r#"{"pids":{}}"#, None),
            (r#"{"pids":{"limit":null}}"#, None),
            (r#"{"pids":{"limit":0}}"#, Some(0)),
            (r#"{"pids":{"limit":7,"limit":0}}"#, Some(0)),
            (r#"{"pids":{"limit":-1}}"#, Some(-1)),
            (r#"{"pids":{"limit":5}}"#, Some(5)),
            ("{}", None),
        ] {
            let limit_of = |resources: &LinuxResources| resources.pids().map(|pids| pids.limit());
            assert_eq!(limit_of(&parse_resources(json.as_bytes()).unwrap()), limit, "{json}");
            let whole = format!(r#"{{"ociVersion":"1","linux":{{"resources":{json}}}}}"#);
            let mut spec = spec(&whole).0.unwrap();
            let resources = spec.linux_mut().as_mut().unwrap().resources_mut().as_mut().unwrap();
            drop_absent_pids_limit(resources, whole.as_bytes(), "/linux/resources");
            assert_eq!(limit_of(resources), limit, "{whole}");
        }
        assert!(parse_resources(br#"{"pids":[]}"#).is_err() && parse_resources(b"").is_err());
        let error = parse_resources(br#"{"memory":{"limit":"1"}}"#).unwrap_err().to_string();
        assert!(error.starts_with("memory.limit: "), "{error}");
    }

    #[test]
    fn invalid_utf8_in_config_json_is_replaced_as_in_go() {
        let json = b"{\"ociVersion\":\"1\",\"annotations\":{\"k\\udc00\":\"v\xff\"},
            \"process\":{\"cwd\":\"/\",\"args\":[\"a\\ud800\"],\"env\":[\"A=\xe2\x82\"]}}";
        let spec: Spec = parse(json, "process", &mut Vec::new()).unwrap();
        assert_eq!(spec.annotations().as_ref().unwrap()["k\u{fffd}"], "v\u{fffd}");
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["a\u{fffd}"]);
        assert_eq!(process.env().as_ref().unwrap(), &["A=\u{fffd}\u{fffd}"]);
        assert!(parse_process(b"{\"cwd\":\"/\",\"args\":[\"\xff\"]}").is_ok());
    }

    #[test]
    fn settings_of_other_platforms_are_ignored() {
        for json in [
            r#"{"ociVersion":"1","vm":{"x":1},"windows":[],"solaris":7,"zos":{},"freebsd":""}"#,
            r#"{"ociVersion":"1","windows":{"layerFolders":7}}"#,
        ] {
            assert!(spec(json).0.is_ok(), "{json}");
        }
    }

    #[test]
    fn settings_that_are_not_applied_as_written_are_warned_about() {
        let warned = |json: &str| warnings_of(&spec(json).0.unwrap());
        let json = r#"{"ociVersion":"1","mounts":[{"destination":"/a"},{"destination":"b/c"}],
            "linux":{"resources":{"memory":{"kernelTCP":5}}}}"#;
        let expected = [
            "mounts[1].destination: b/c is not absolute, taken from /",
            "Kernel memory settings are ignored and will be removed",
        ];
        assert_eq!(warned(json), expected);
        assert!(warned(r#"{"ociVersion":"1","linux":{"resources":{"memory":{"kernel":0,"limit":5}}}}"#).is_empty());
    }

    #[test]
    fn scheduler_and_affinity_spellings_of_the_spec_are_accepted() {
        let json = r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "scheduler":{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]},
            "execCPUAffinity":{"initial":"","final":" 0-1 ,, 3"}}}"#;
        let process = spec(json).0.unwrap().process().clone().unwrap();
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 2);
        let affinity = process.exec_cpu_affinity().clone().unwrap();
        assert_eq!((affinity.initial().as_deref(), affinity.cpu_affinity_final().as_deref()), (None, Some("0-1,3")));
    }

    #[test]
    fn unknown_capabilities_are_dropped_with_one_warning() {
        let json = r#"{"ociVersion":"1","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "capabilities":{"bounding":["CAP_KILL","CAP_WARP"],"effective":["CAP_WARP"]}}}"#;
        let (spec, warnings) = spec(json);
        let process = spec.unwrap().process().clone().unwrap();
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [CAP_WARP]"]);
    }
}

//! Plans devices: the default devices and those of config.json, and the tmpfs that holds them.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use berth_init::{
    mode::Umask,
    plan::{Device, FsOption},
};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use crate::{
    Context, Error, Result,
    arena::{self, Arena},
    id_maps::Ids,
    leaves::mount::{self, Options},
};

/// Path, major and minor number of the default devices (config-linux.md, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];

/// Returns all devices of a container, with owners as seen in the container. A device of config.json replaces the
/// default device of the same path.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field that is out of range or names an unmapped id.
pub fn plan<'a>(arena: &'a Arena, devices: &[LinuxDevice], ids: &Ids) -> Result<Vec<Device<'a>>> {
    let mut out = Vec::new();
    for (path, major, minor) in DEFAULT {
        if devices.iter().any(|d| mount::clean(d.path()) == Path::new(path)) {
            continue;
        }
        let path = arena.text(path, "linux.devices")?;
        out.push(Device { path, mode: libc::S_IFCHR | 0o666, major, minor, uid: 0, gid: 0 });
    }
    for (n, device) in devices.iter().enumerate() {
        let device = plan_one(arena, device, ids).map_err(|e| with_index(n, &e))?;
        // The runtime links /dev/ptmx to the container's own devpts, so an entry of config.json has no effect.
        if device.path != c"/dev/ptmx" {
            out.push(device);
        }
    }
    Ok(out)
}

/// Checks the devices of a config.json, except for their owners.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field.
pub fn check(devices: &[LinuxDevice]) -> Result<()> {
    devices
        .iter()
        .enumerate()
        .try_for_each(|(n, device)| numbers(device).and_then(|_| path(device)).map(drop).map_err(|e| with_index(n, &e)))
}

fn plan_one<'a>(arena: &'a Arena, device: &LinuxDevice, ids: &Ids) -> Result<Device<'a>> {
    let (kind, major, minor) = numbers(device)?;
    Ok(Device {
        path: arena.path(&path(device)?, "path")?,
        // 0666 is runc's default mode.
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major,
        minor,
        uid: ids.host_uid(device.uid().unwrap_or(0), "uid").map(|_| device.uid().unwrap_or(0))?,
        gid: ids.host_gid(device.gid().unwrap_or(0), "gid").map(|_| device.gid().unwrap_or(0))?,
    })
}

/// Puts the device's index before an error that begins with the name of the member.
fn with_index(n: usize, error: &Error) -> Error {
    Error::invalid(format!("linux.devices[{n}].{error}"))
}

fn path(device: &LinuxDevice) -> Result<PathBuf> {
    let path = mount::clean(device.path());
    if path == Path::new("/") {
        return Err(Error::invalid("path: must not be empty"));
    }
    arena::check(path.as_os_str().as_encoded_bytes(), || "path".into())?;
    Ok(path)
}

/// Returns the file type for mknod(2), the major and the minor number.
fn numbers(device: &LinuxDevice) -> Result<(u32, u32, u32)> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => return Ok((libc::S_IFIFO, 0, 0)),
        LinuxDeviceType::A => return Err(Error::invalid("type: invalid device type \"a\"")),
    };
    let number = |value: i64, field: &str, max: u32| {
        u32::try_from(value)
            .ok()
            .filter(|&v| v <= max)
            .ok_or_else(|| Error::invalid(format!("{field}: {value} is out of range")))
    };
    Ok((kind, number(device.major(), "major", (1 << 12) - 1)?, number(device.minor(), "minor", (1 << 20) - 1)?))
}

/// Creates the device nodes in a detached tmpfs for `/dev`, so the image's own `/dev` is never touched (CVE-2026-41579,
/// CVE-2026-47766). Returns the tmpfs, and the devices outside of `/dev`.
pub fn build_dev<'a>(
    arena: &'a Arena,
    mounts: &[Mount],
    devices: Vec<Device<'a>>,
    ids: &Ids,
    label: Option<&'a CStr>,
) -> Result<(Option<OwnedFd>, Vec<Device<'a>>)> {
    let Some(spec) = mount::dev_tmpfs(mounts) else { return Ok((None, devices)) };
    let mut options = Options::parse(spec.options().as_deref().unwrap_or_default())?;
    // The tmpfs becomes read-only last, because targets of other mounts are created in it.
    options.take_readonly();
    let source = spec.source().as_deref().map_or("tmpfs".into(), Path::to_string_lossy);
    let mut fs = mount::fs_options(arena, &options, &source, label)?;
    let root = if ids.has_mappings() {
        let (uid, gid) = (ids.host_uid(0, "linux.uidMappings")?, ids.host_gid(0, "linux.gidMappings")?);
        fs.push(owner(arena, "uid", uid)?);
        fs.push(owner(arena, "gid", gid)?);
        Some((uid, gid))
    } else {
        None
    };
    let attributes = u32::try_from(options.set).map_err(|_| Error::invalid("mounts: /dev"))?;
    let tree = berth_init::mount::create(c"tmpfs", &fs, attributes, None)
        .context("error mounting \"tmpfs\" to rootfs at \"/dev\"")?;

    // A device below another mount inside /dev can only be created after that mount, by the child.
    let covered: Vec<PathBuf> = mounts
        .iter()
        .map(|m| mount::clean(m.destination()))
        .filter(|t| t.starts_with("/dev") && t != Path::new("/dev"))
        .collect();
    let mut elsewhere = Vec::new();
    // With umask 0 nodes and directories get exactly their modes.
    let _umask = Umask::set(0).context("unshare the umask")?;
    for device in devices {
        let path = Path::new(std::ffi::OsStr::from_bytes(device.path.to_bytes()));
        match path.strip_prefix("/dev") {
            Ok(inside) if !covered.iter().any(|c| path.starts_with(c)) => {
                let inside = arena.path(&Path::new("/").join(inside), "linux.devices.path")?;
                let (uid, gid) = (ids.host_uid(device.uid, "uid")?, ids.host_gid(device.gid, "gid")?);
                let node = Device { path: inside, uid, gid, ..device };
                berth_init::device::make(tree.as_fd(), &node, root)
                    .with_context(|| format!("error creating device node {}", path.display()))?;
            }
            _ => elsewhere.push(device),
        }
    }
    berth_init::device::make_links(tree.as_fd(), root).context("error setting up /dev links")?;
    Ok((Some(tree), elsewhere))
}

use std::os::unix::ffi::OsStrExt;

fn owner<'a>(arena: &'a Arena, key: &str, id: u32) -> Result<FsOption<'a>> {
    Ok(FsOption::Pair(arena.text(key, "mounts")?, arena.text(id.to_string(), "mounts")?))
}

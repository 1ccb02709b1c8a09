//! The requests of rtnetlink(7) that network devices need: find and move a link, set it up, read and add addresses.
//!
//! ```text
//! nlmsghdr  u32 length | u16 type | u16 flags | u32 sequence | u32 port        16 bytes
//! body      ifinfomsg (16 bytes) or ifaddrmsg (8 bytes)
//! rtattr    u16 length | u16 type | data, filled up to 4 bytes                 any number
//! ```
//! All numbers are in the machine's byte order. Each request gets its answer before the next one is sent.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::{
    Context, Error, Result,
    namespace::{kind, thread::run_in_thread},
};

/// if_link.h: name of a device, and fd of the namespace to move it to.
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
/// if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
/// The address has no limited lifetime.
const IFA_F_PERMANENT: u32 = 0x80;
/// Flags that a caller can set on an address: NODAD, OPTIMISTIC, HOMEADDRESS, NOPREFIXROUTE, MCAUTOJOIN. The kernel
/// sets the others.
const IFA_F_SETTABLE: u32 = 0x02 | 0x04 | 0x10 | 0x200 | 0x400;
/// netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Bytes of the receive buffer. The kernel's datagrams are at most 32 KiB (netlink_dump).
const BUFFER: usize = 1 << 16;

/// A netlink socket in one network namespace.
pub struct Socket(OwnedFd);

/// A network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: i32,
    /// `IFF_UP`.
    pub up: bool,
}

/// An address of a device, with all attributes that are needed to add it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Returns true for `RT_SCOPE_UNIVERSE`, an address that is valid beyond this host and link.
    pub fn is_global(&self) -> bool {
        self.scope == libc::RT_SCOPE_UNIVERSE
    }

    /// Returns true for IPv6 addresses that the kernel assigns to every link by itself.
    pub fn is_kernel_assigned(&self) -> bool {
        i32::from(self.family) == libc::AF_INET6 && !self.is_global()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = self.attributes.iter().find(|(kind, _)| *kind == IFA_LOCAL);
        let bytes = own.or_else(|| self.attributes.iter().find(|(kind, _)| *kind == IFA_ADDRESS));
        let bytes = bytes.map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let ip = <[u8; 4]>::try_from(bytes)
            .map(std::net::IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from));
        match ip {
            Ok(ip) => write!(f, "{ip}/{}", self.prefix),
            Err(_) => write!(f, "{bytes:?}/{}", self.prefix),
        }
    }
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// As socket(2).
    pub fn open() -> Result<Self> {
        let made = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        Ok(Self(made.context("socket of rtnetlink")?))
    }

    /// Opens a socket in the network namespace `namespace`. A separate thread joins it, so this thread need not go
    /// back.
    ///
    /// # Errors
    /// As setns(2) and socket(2).
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        let make = || {
            berth_init::sys::setns(namespace, kind::NETWORK).context("join the network namespace")?;
            Self::open()
        };
        run_in_thread(&(), |()| make())
    }

    /// Finds the device of this name.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn link(&self, name: &str) -> Result<Link> {
        let body = Body::link(0, 0, 0).attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        let mut found = None;
        self.request(libc::RTM_GETLINK, NLM_F_ACK, &body, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                found = parse_link(body);
            }
        })?;
        found.ok_or_else(|| Error::from_errno(libc::ENODEV))
    }

    /// Moves a device to a network namespace and renames it there. The move takes it down and deletes its addresses.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken there. `EINVAL` for a device that cannot leave its namespace, such as lo.
    pub fn move_link(&self, index: i32, name: &str, namespace: BorrowedFd<'_>) -> Result<()> {
        let body = Body::link(index, 0, 0)
            .attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
            .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.request(libc::RTM_NEWLINK, NLM_F_ACK, &body, |_, _| ())
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// The error of the device's driver.
    pub fn set_up(&self, index: i32) -> Result<()> {
        let up = libc::IFF_UP.cast_unsigned();
        self.request(libc::RTM_NEWLINK, NLM_F_ACK, &Body::link(index, up, up), |_, _| ())
    }

    /// Returns the permanent addresses of a device.
    ///
    /// # Errors
    /// As netlink(7).
    pub fn addresses(&self, index: i32) -> Result<Vec<Address>> {
        loop {
            let mut found = Vec::new();
            let asked = self.request(libc::RTM_GETADDR, NLM_F_DUMP, &Body::address(0, 0, 0, 0), |kind, body| {
                if kind == libc::RTM_NEWADDR {
                    found.extend(parse_address(body, index));
                }
            });
            match asked {
                // NLM_F_DUMP_INTR: the addresses changed during the dump, so the answer may be incomplete.
                Err(e) if e.errno() == Some(libc::EINTR) => {}
                other => return other.map(|()| found),
            }
        }
    }

    /// Adds an address to a device. If the device already has the address, that is no error.
    ///
    /// # Errors
    /// The kernel's: `EACCES` where IPv6 is disabled.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<()> {
        let number = u32::try_from(index).unwrap_or(0);
        let body = Body::address(address.family, address.prefix, address.scope, number);
        let body = body.attribute(IFA_FLAGS, &(address.flags & IFA_F_SETTABLE).to_ne_bytes());
        let body = address.attributes.iter().fold(body, |body, (kind, data)| body.attribute(*kind, data));
        match self.request(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE_EXCL, &body, |_, _| ()) {
            Err(e) if e.errno() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Sends a request, and calls `each` for every message of the answer.
    fn request(&self, kind: u16, flags: u16, body: &Body, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        let length = u32::try_from(HEADER + body.0.len()).map_err(|_| Error::from_errno(libc::EMSGSIZE))?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(&body.0);
        send(self.0.as_raw_fd(), &request, MsgFlags::empty()).context("send to rtnetlink")?;
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.context("receive from rtnetlink")?,
            };
            for message in messages(buffer.get(..length).unwrap_or_default()) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    // Both begin with a negative errno. 0 acknowledges the request.
                    NLMSG_ERROR | NLMSG_DONE => match (number(message.body, 0).unwrap_or(0).cast_signed(), whole) {
                        (0, true) => return Ok(()),
                        (0, false) => return Err(Error::from_errno(libc::EINTR)),
                        (errno, _) => return Err(Error::from_errno(errno.saturating_neg())),
                    },
                    kind => each(kind, message.body),
                }
            }
        }
    }
}

/// The part of a request after its header.
struct Body(Vec<u8>);

impl Body {
    /// Builds an `ifinfomsg`. The flags in `change` are set as in `flags`.
    fn link(index: i32, flags: u32, change: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(change.to_ne_bytes());
        Self(bytes)
    }

    /// Builds an `ifaddrmsg`.
    fn address(family: u8, prefix: u8, scope: u8, index: u32) -> Self {
        let mut bytes = vec![family, prefix, 0, scope];
        bytes.extend(index.to_ne_bytes());
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        // `data` is a name, a number or an address, so its length fits.
        let length = u16::try_from(data.len() + 4).unwrap_or(0);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// A message of a datagram.
pub struct Message<'b> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// The bytes after the header.
    pub body: &'b [u8],
}

/// Splits a datagram into its messages. Stops at a truncated one.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let message = Message { kind: short(bytes, 4)?, flags: short(bytes, 6)?, body };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits the attributes after the fixed part of a body. Stops at a truncated one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let attribute = (short(bytes, 2)?, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// Parses a message with a link.
pub fn parse_link(body: &[u8]) -> Option<Link> {
    let up = number(body, 8)? & libc::IFF_UP.cast_unsigned() != 0;
    Some(Link { index: number(body, 4)?.cast_signed(), up })
}

/// Parses a message with an address. Returns `None` unless the address is permanent and belongs to device `index`.
pub fn parse_address(body: &[u8], index: i32) -> Option<Address> {
    let &[family, prefix, flags, scope, ..] = body else { return None };
    let attributes: Vec<_> = attributes(body.get(8..)?).collect();
    // IFA_FLAGS holds 32 bits of flags; the field of ifaddrmsg holds 8.
    let wide = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, data)| number(data, 0));
    let flags = wide.unwrap_or(flags.into());
    if number(body, 4)?.cast_signed() != index || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY];
    let attributes =
        attributes.into_iter().filter(|(kind, _)| kept.contains(kind)).map(|(kind, data)| (kind, data.to_vec()));
    Some(Address { family, prefix, scope, flags, attributes: attributes.collect() })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netlink_attributes_are_padded_to_four_bytes() {
        let body = Body::link(7, 1, 1).attribute(IFLA_IFNAME, b"d0\0").attribute(IFLA_NET_NS_FD, &5u32.to_ne_bytes());
        let found: Vec<_> = attributes(&body.0[16..]).collect();
        assert_eq!(found, [(IFLA_IFNAME, &b"d0\0"[..]), (IFLA_NET_NS_FD, &5u32.to_ne_bytes()[..])]);
        assert_eq!(body.0.len(), 16 + 8 + 8);
        assert_eq!(parse_link(&body.0), Some(Link { index: 7, up: true }));
    }

    #[test]
    fn only_permanent_addresses_of_the_device_are_parsed() {
        let message = |index: u32, flags: u32| {
            Body::address(2, 24, 0, index)
                .attribute(IFA_ADDRESS, &[10, 1, 2, 3])
                .attribute(IFA_LOCAL, &[10, 1, 2, 3])
                .attribute(3, b"d0\0")
                .attribute(IFA_FLAGS, &flags.to_ne_bytes())
                .0
        };
        let address = parse_address(&message(7, IFA_F_PERMANENT | 0x200), 7).unwrap();
        assert_eq!((address.to_string().as_str(), address.is_global()), ("10.1.2.3/24", true));
        // IFA_LABEL is left out: it contains the device's former name.
        assert_eq!(address.attributes.len(), 2);
        assert_eq!(parse_address(&message(7, 0), 7), None);
        assert_eq!(parse_address(&message(8, IFA_F_PERMANENT), 7), None);
        let bytes = std::net::Ipv6Addr::LOCALHOST.octets();
        let six = parse_address(&Body::address(10, 64, 253, 7).attribute(IFA_ADDRESS, &bytes).0, 7);
        assert_eq!(six, None);
    }

    #[test]
    fn truncated_netlink_messages_end_the_parsing() {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(messages(&bytes).map(|m| (m.kind, m.body.len())).collect::<Vec<_>>(), [(3, 4)]);
        assert_eq!(messages(&bytes[..19]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
    }

    /// Every network namespace has lo, and reading it needs no privileges.
    #[test]
    fn loopback_device_is_found_by_name() {
        let socket = Socket::open().unwrap();
        let lo = socket.link("lo").unwrap();
        socket.addresses(lo.index).unwrap();
        assert_eq!(socket.link("no-such-device").unwrap_err().errno(), Some(libc::ENODEV));
    }
}

//! What a request asks for: sixteen bits, split into ranges with one owner each.

use core::fmt;

/// The type of a request, repeated in every frame that answers it.
///
/// | range | owner |
/// |---|---|
/// | 0x0000 | padding; never a request |
/// | 0x0001–0x0FFF | Annulus; unknown ones are answered `UnknownMessageType` |
/// | 0x1000–0xEFFF | users: [`MessageType::user`] |
/// | 0xF000–0xFFFF | inside the daemon; never seen on a client's ring |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType(u16);

impl MessageType {
    /// A frame that only fills space.
    pub const PADDING: Self = Self(0);
    /// The answer is the request's payload.
    pub const ECHO: Self = Self(0x0001);
    /// Are you there? The answer is empty.
    pub const HEARTBEAT: Self = Self(0x0002);
    /// An AI request, answered whole.
    pub const COMPLETE: Self = Self(0x0003);
    /// An AI request, answered chunk by chunk.
    pub const STREAM: Self = Self(0x0004);
    /// Ends the request whose id this frame carries; has no answer of its own.
    pub const CANCEL: Self = Self(0x0005);
    /// The daemon's metrics in Prometheus text form.
    pub const METRICS: Self = Self(0x0006);
    /// First type of the users' range.
    pub const USER_FIRST: Self = Self(0x1000);
    /// Last type of the users' range.
    pub const USER_LAST: Self = Self(0xEFFF);

    /// The built-in types and their names on the command line and in metrics.
    pub const NAMED: [(Self, &'static str); 6] = [
        (Self::ECHO, "echo"),
        (Self::HEARTBEAT, "heartbeat"),
        (Self::COMPLETE, "complete"),
        (Self::STREAM, "stream"),
        (Self::CANCEL, "cancel"),
        (Self::METRICS, "metrics"),
    ];

    /// A type of the users' range: `offset` 0 to 0xDFFF counts from [`MessageType::USER_FIRST`].
    ///
    /// # Panics
    ///
    /// When `offset` lies beyond the range; in a `const` this is a compile error.
    #[must_use]
    pub const fn user(offset: u16) -> Self {
        assert!(offset <= Self::USER_LAST.0 - Self::USER_FIRST.0, "beyond the users' range");
        Self(Self::USER_FIRST.0 + offset)
    }

    /// The type with this number, known or not.
    #[must_use]
    pub const fn from_wire(number: u16) -> Self {
        Self(number)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0
    }

    /// True for the users' range.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 >= Self::USER_FIRST.0 && self.0 <= Self::USER_LAST.0
    }

    /// The built-in type called `name`, or the number itself in decimal or `0x` form.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some((found, _)) = Self::NAMED.iter().find(|(_, known)| *known == name) {
            return Some(*found);
        }
        let number = match name.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok()?,
            None => name.parse().ok()?,
        };
        (number != 0).then_some(Self(number))
    }

    /// The built-in type's name.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(known, _)| *known == self).map(|(_, name)| *name)
    }
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_to_its_type() {
        for (message_type, name) in MessageType::NAMED {
            assert_eq!(MessageType::parse(name), Some(message_type));
            assert_eq!(message_type.to_string(), name);
        }
    }

    #[test]
    fn numbers_parse_in_both_forms_and_zero_is_nobody() {
        assert_eq!(MessageType::parse("0x1000"), Some(MessageType::user(0)));
        assert_eq!(MessageType::parse("4096"), Some(MessageType::user(0)));
        assert_eq!(MessageType::parse("0"), None);
        assert_eq!(MessageType::parse("65536"), None);
        assert_eq!(MessageType::parse("echoes"), None);
    }

    #[test]
    fn the_users_range_has_both_ends() {
        assert!(MessageType::user(0).is_user());
        assert!(MessageType::user(0xDFFF).is_user());
        assert!(!MessageType::from_wire(0xF000).is_user());
        assert!(!MessageType::ECHO.is_user());
    }
}

//! Under which labels of the metrics requests and their answers are counted.

use crate::metrics::{ErrorStatus, MessageKind, ShardMetrics};
use crate::wire::{MessageType, Status};

impl From<MessageType> for MessageKind {
    fn from(message_type: MessageType) -> Self {
        match message_type {
            MessageType::ECHO => Self::Echo,
            MessageType::HEARTBEAT => Self::Heartbeat,
            MessageType::COMPLETE => Self::Complete,
            MessageType::STREAM => Self::Stream,
            MessageType::CANCEL => Self::Cancel,
            other if other.is_user() => Self::User,
            _ => Self::Builtin,
        }
    }
}

impl ShardMetrics {
    /// Counts an answer that is not `Ok`.
    pub(super) fn failed(&self, kind: MessageKind, status: Status) {
        let status = match status {
            Status::Ok => return,
            Status::MessageTooLarge => ErrorStatus::TooLarge,
            Status::UnknownMessageType => ErrorStatus::UnknownType,
            Status::HandlerPanic => ErrorStatus::HandlerPanic,
            Status::Timeout => ErrorStatus::Timeout,
            Status::Cancelled => ErrorStatus::Cancelled,
            Status::Busy => ErrorStatus::Busy,
            Status::InvalidRequest => ErrorStatus::Invalid,
            Status::ShuttingDown => ErrorStatus::Unavailable,
            _ => ErrorStatus::Internal,
        };
        self.request_failed(kind, status);
    }
}

//! The number of a request, which its payload carries in its first and its last word.
//!
//! At both ends, so that an answer that was cut short or published too early is found.

/// Writes `stamp` into the first and the last 8 bytes of `payload`, in the machine's byte order.
///
/// # Panics
///
/// When `payload` has fewer than 8 bytes.
#[inline]
pub fn stamp_payload(payload: &mut [u8], stamp: u64) {
    let stamp = stamp.to_ne_bytes();
    *payload.first_chunk_mut().expect("a payload has a word") = stamp;
    *payload.last_chunk_mut().expect("a payload has a word") = stamp;
}

/// The stamps at the start and at the end of `answer`; zero, which nobody sends as a stamp, when it
/// has fewer than 8 bytes.
#[inline]
#[must_use]
pub fn stamps_of(answer: &[u8]) -> [u64; 2] {
    [answer.first_chunk(), answer.last_chunk()]
        .map(|word| word.map_or(0, |word| u64::from_ne_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_short_has_two_stamps_or_none() {
        let mut payload = [0xA5; 24];
        stamp_payload(&mut payload, 7);
        assert_eq!(stamps_of(&payload), [7, 7]);
        let [first, last] = stamps_of(&payload[..23]);
        assert!(first == 7 && last != 7);
        assert_eq!(stamps_of(&payload[..7]), [0, 0]);
    }
}

//! How a script says where a body is split.

/// Takes the splits off a script: how many (up to 15), 2 bytes for each.
pub(super) fn read_splits(script: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = script.split_first()?;
    rest.split_at_checked(usize::from(count % 16) * 2)
}

/// The body in pieces, of which some may be empty.
pub(super) fn split<'b>(body: &'b [u8], splits: &[u8]) -> impl Iterator<Item = &'b [u8]> {
    let place = |split: &[u8]| usize::from(split[0]) | usize::from(split[1]) << 8;
    let mut places: Vec<usize> =
        splits.chunks(2).map(|split| place(split) % (body.len() + 1)).collect();
    places.extend([0, body.len()]);
    places.sort_unstable();
    (1..places.len()).map(move |next| &body[places[next - 1]..places[next]])
}

//! The name that somebody probably meant.

/// Returns the candidate that resembles `name` most, or `None` when none does.
///
/// A candidate that has the right last word under the wrong section (`metrics.max_connections`) is
/// the best of all, however far the sections are.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let edits = |candidate: &str| {
        let misplaced = name.contains('.') && last_word(name) == last_word(candidate);
        if misplaced { 0 } else { edit_distance(name, candidate) }
    };
    candidates
        .into_iter()
        .map(|candidate| (edits(candidate), candidate))
        .filter(|(edits, candidate)| *edits <= edits_max(name, candidate))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// How many edits a slip of the fingers may take: a third of what follows the common start, which
/// long sections would otherwise inflate, or the two of a swap, but never half of the name.
fn edits_max(name: &str, candidate: &str) -> usize {
    let size = name.chars().count();
    let common = name.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count();
    ((size - common) / 3).max(2).min(size.saturating_sub(1) / 2)
}

fn last_word(path: &str) -> Option<&str> {
    path.rsplit('.').next()
}

/// Counts the characters to insert, delete or replace to turn `source` into `target` (Levenshtein),
/// keeping one row of the table at a time.
fn edit_distance(source: &str, target: &str) -> usize {
    let target: Vec<char> = target.chars().collect();
    let mut row: Vec<usize> = (0..=target.len()).collect();
    for (i, from) in source.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in target.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[target.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn closest_candidate_wins() {
        let candidates = ["ipc.socket_path", "ipc.max_connections", "ipc.max_message_size"];
        assert_eq!(nearest("ipc.max_conections", candidates), Some("ipc.max_connections"));
    }

    #[test]
    fn right_word_in_the_wrong_section_is_found() {
        let candidates = ["ipc.max_connections", "metrics.enable"];
        assert_eq!(nearest("metrics.max_connections", candidates), Some("ipc.max_connections"));
    }

    #[test]
    fn nothing_is_suggested_when_nothing_resembles() {
        assert_eq!(nearest("zzz", ["ipc.max_connections"]), None);
        assert_eq!(nearest("a", ["b", "c"]), None);
        let kind = "providers.loopback.kind";
        assert_eq!(nearest("providers.loopback.api_key", [kind]), None);
    }

    #[test]
    fn swapped_letters_are_found() {
        assert_eq!(nearest("METRICS_ENABEL", ["METRICS_ENABLE"]), Some("METRICS_ENABLE"));
        assert_eq!(nearest("ipcc", ["ipc", "shards"]), Some("ipc"));
    }
}

//! The names of variables: `ANNULUS_IPC_MAX_CONNECTIONS` for `ipc.max_connections`.
//!
//! A variable that only looks like one of ours is a mistake that would otherwise go unnoticed, so
//! it is refused. Whether it looks so is a question of its first word, which a section must share.

use super::error::Problem;
use super::nearest::nearest;
use super::remote::ModelConfig;
use super::schema::ProviderKind;

/// What all our variables begin with.
pub(super) const PREFIX: &str = "ANNULUS_";

/// The dotted key that a variable stands for; `None` when the variable is not about the
/// configuration, an error when it looks as if it were and there is no such key.
pub(super) fn environment_key(variable: &str, keys: &[String]) -> Option<Result<String, Problem>> {
    let name = variable.strip_prefix(PREFIX)?;
    if let Some(key) = keys.iter().find(|key| variable_part(key) == name) {
        return Some(Ok(key.clone()));
    }
    let first_word = |name: &str| name.split('_').next().map(str::to_owned);
    let named = named_tables().into_iter().find_map(|(table, names)| {
        let rest = name.strip_prefix(&variable_part(table))?.strip_prefix('_')?;
        Some((table, names, rest))
    });
    let candidates: Vec<String> = match named {
        Some((table, names, rest)) => match key_in(table, &names, rest) {
            Some(key) => return Some(Ok(key)),
            None => misspelt_keys_in(table, &names, rest),
        },
        None => keys.iter().map(|key| variable_part(key)).collect(),
    };
    let is_table = |(table, _): (&str, _)| first_word(name) == Some(variable_part(table));
    let is_ours = named_tables().into_iter().any(is_table)
        || keys.iter().any(|key| first_word(&variable_part(key)) == first_word(name));
    is_ours.then(|| {
        let nearest = nearest(name, candidates.iter().map(String::as_str));
        Err(Problem::Unknown { nearest: nearest.map(|name| format!("{PREFIX}{name}")) })
    })
}

/// The tables with names of the user's own, and the keys in them.
fn named_tables() -> [(&'static str, Vec<&'static str>); 2] {
    let model = ModelConfig::default();
    let of_models = model.fields().iter().map(|(key, _)| key.name).collect();
    [("providers", ProviderKind::key_names()), ("models", of_models)]
}

/// `MY_NAME_CHUNK_SIZE` is `providers.my-name.chunk_size`: the longest key at the end counts.
fn key_in(table: &str, keys: &[&'static str], rest: &str) -> Option<String> {
    keys.iter()
        .filter_map(|key| {
            let name = rest.strip_suffix(&variable_part(key))?.strip_suffix('_')?;
            Some((key, name.to_ascii_lowercase().replace('_', "-")))
        })
        .max_by_key(|(key, _)| key.len())
        .map(|(key, name)| format!("{table}.{name}.{key}"))
}

/// Every reading of `rest` as a name and a key, whatever stands where the key does.
fn misspelt_keys_in(table: &str, keys: &[&'static str], rest: &str) -> Vec<String> {
    let table = variable_part(table);
    let mut readings = Vec::new();
    for (end, _) in rest.match_indices('_') {
        let name = &rest[..end];
        let reading = |key: &&str| format!("{table}_{name}_{}", variable_part(key));
        readings.extend(keys.iter().map(reading));
    }
    readings
}

fn variable_part(key: &str) -> String {
    key.replace('.', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::tests::nothing;
    use crate::config::{Config, Sources};

    fn errors_in_environment(variable: &str, value: &str) -> String {
        let environment = vec![(variable.to_owned(), value.to_owned())];
        let sources = Sources { environment, ..nothing() };
        Config::load(&sources).map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    #[test]
    fn variables_of_others_are_passed_over() {
        for variable in ["ANNULUS_LOG", "ANNULUS_CONFIG", "IPC_MAX_CONNECTIONS", "PATH"] {
            assert_eq!(errors_in_environment(variable, "0"), "");
        }
    }

    #[test]
    fn unknown_variable_is_refused_with_the_nearest() {
        assert_eq!(
            errors_in_environment("ANNULUS_IPC_MAX_CONECTIONS", "5"),
            "ANNULUS_IPC_MAX_CONECTIONS: unknown setting, did you mean ANNULUS_IPC_MAX_CONNECTIONS?"
        );
        assert_eq!(
            errors_in_environment("ANNULUS_PROVIDERS_MY_OWN_CHUNK_SIZ", "5"),
            "ANNULUS_PROVIDERS_MY_OWN_CHUNK_SIZ: unknown setting, \
             did you mean ANNULUS_PROVIDERS_MY_OWN_CHUNK_SIZE?"
        );
        assert_eq!(errors_in_environment("ANNULUS_SHARDS", "5"), "ANNULUS_SHARDS: unknown setting");
    }

    #[test]
    fn variable_of_a_provider_names_it_with_hyphens() {
        let key_of = |rest| key_in("providers", &ProviderKind::key_names(), rest);
        assert_eq!(key_of("MY_OWN_CHUNK_SIZE").unwrap(), "providers.my-own.chunk_size");
        assert_eq!(key_of("CHUNK_SIZE"), None);
        // `models` is a key too, and the shorter one.
        assert_eq!(key_of("MY_DEFAULT_MODEL").unwrap(), "providers.my.default_model");
    }

    #[test]
    fn variable_of_a_model_names_its_route() {
        let route = [("ANNULUS_MODELS_MY_FAST_ROUTE".to_owned(), "loopback/x".to_owned())];
        let config = Config::load(&Sources { environment: route.to_vec(), ..nothing() }).unwrap();
        assert_eq!(config.models["my-fast"].route, ["loopback/x"]);
        assert_eq!(
            errors_in_environment("ANNULUS_MODELS_FAST_ROUT", "loopback/x"),
            "ANNULUS_MODELS_FAST_ROUT: unknown setting, did you mean ANNULUS_MODELS_FAST_ROUTE?"
        );
    }
}

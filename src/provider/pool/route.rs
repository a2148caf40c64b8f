//! Who is asked for a model, and for which of theirs.

use std::collections::BTreeMap;

use super::settings::{MemberSettings, PoolSettings};
use crate::dialect::{Class, Failure};

/// One provider to ask, and the model to ask it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) provider: String,
    pub(super) model: String,
}

/// The routes of a configuration.
#[derive(Debug)]
pub(super) struct Routes {
    providers: BTreeMap<String, Offer>,
    default: Option<String>,
    models: BTreeMap<String, Vec<Target>>,
    failover: Vec<String>,
}

/// What a provider has.
#[derive(Debug)]
struct Offer {
    /// Empty when that is not known.
    models: Vec<String>,
    default_model: Option<String>,
    /// Takes any model, and none.
    is_local: bool,
}

impl Routes {
    /// The routes of a pool.
    ///
    /// # Errors
    ///
    /// Names the route or the list that names a provider which is not there.
    pub(super) fn new(settings: &PoolSettings) -> Result<Self, String> {
        let providers = settings
            .providers
            .iter()
            .map(|(name, member)| {
                let offer = match member {
                    MemberSettings::Remote(remote) => Offer {
                        models: remote.models.clone(),
                        default_model: remote.default_model.clone(),
                        is_local: false,
                    },
                    MemberSettings::Local(_) => {
                        Offer { models: Vec::new(), default_model: None, is_local: true }
                    }
                };
                (name.clone(), offer)
            })
            .collect();
        let mut routes = Self {
            providers,
            default: settings.default_provider.clone(),
            models: BTreeMap::new(),
            failover: settings.upstream.failover.clone(),
        };
        for (model, route) in &settings.models {
            let targets: Result<Vec<Target>, String> = route
                .iter()
                .map(|place| match routes.named(place) {
                    Some(target) => target.map_err(|failure| failure.detail),
                    None => Err(format!("no provider is named as {place:?} says")),
                })
                .collect();
            let targets = targets.map_err(|reason| format!("models.{model}.route: {reason}"))?;
            if targets.is_empty() {
                return Err(format!("models.{model}.route is empty: name a provider/model"));
            }
            routes.models.insert(model.clone(), targets);
        }
        let names = routes.default.iter().map(|name| ("default_provider", name));
        let others = routes.failover.iter().map(|name| ("upstream.failover", name));
        for (key, name) in names.chain(others) {
            if !routes.providers.contains_key(name) {
                return Err(format!("{key}: no provider is named {name}"));
            }
        }
        Ok(routes)
    }

    /// Who is to be asked for a model, the first of them first; never empty.
    ///
    /// # Errors
    ///
    /// [`Class::BadRequest`]: nobody has it; says who there is.
    pub(super) fn targets(&self, model: &str) -> Result<Vec<Target>, Failure> {
        let mut targets = match self.models.get(model) {
            Some(targets) => targets.clone(),
            None => vec![match self.named(model) {
                Some(target) => target?,
                None => self.by_default(model)?,
            }],
        };
        for name in &self.failover {
            if targets.iter().any(|target| target.provider == *name) {
                continue;
            }
            let offer = &self.providers[name];
            let same = &targets[0].model;
            let model = if offer.models.contains(same) {
                Some(same)
            } else {
                offer.default_model.as_ref().or(Some(same).filter(|_| offer.models.is_empty()))
            };
            if let Some(model) = model.cloned() {
                targets.push(Target { provider: name.clone(), model });
            }
        }
        Ok(targets)
    }

    /// `provider/model`, or a provider's name alone for its default model; `None` when no provider
    /// is named.
    fn named(&self, text: &str) -> Option<Result<Target, Failure>> {
        let (name, model) = text.split_once('/').unwrap_or((text, ""));
        let offer = self.providers.get(name)?;
        let model = match (model, &offer.default_model) {
            ("", Some(model)) => model,
            ("", None) if !offer.is_local => {
                let detail = format!(
                    "{name} has no default model: ask for {name}/MODEL, or set \
                     providers.{name}.default_model"
                );
                return Some(Err(Failure::new(Class::BadRequest, detail)));
            }
            (model, _) => model,
        };
        Some(Ok(Target { provider: name.to_owned(), model: model.to_owned() }))
    }

    fn by_default(&self, model: &str) -> Result<Target, Failure> {
        if let Some(name) = &self.default {
            let offered = &self.providers[name].models;
            if offered.is_empty() || offered.iter().any(|own| own == model) {
                return Ok(Target { provider: name.clone(), model: model.to_owned() });
            }
        }
        let providers: Vec<&str> = self.providers.keys().map(String::as_str).collect();
        let mut detail = format!(
            "no provider has the model {model:?}: ask for PROVIDER/MODEL with one of the providers {}",
            providers.join(", ")
        );
        if !self.models.is_empty() {
            let models: Vec<&str> = self.models.keys().map(String::as_str).collect();
            detail.push_str(&format!(", or for one of the models {}", models.join(", ")));
        }
        Err(Failure::new(Class::BadRequest, detail))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::settings::{ProviderSettings, UpstreamSettings};
    use super::super::tests::world::ROW;
    use super::*;
    use crate::config::LoopbackConfig;
    use crate::provider::Loopback;

    fn settings(change: impl FnOnce(&mut PoolSettings)) -> PoolSettings {
        let remote = |models: &[&str], default_model: Option<&str>| {
            let mut remote = ProviderSettings::new(&ROW);
            remote.models = models.iter().map(|&model| model.to_owned()).collect();
            remote.default_model = default_model.map(str::to_owned);
            MemberSettings::Remote(Box::new(remote))
        };
        let loopback = Arc::new(Loopback::new(LoopbackConfig::default()));
        let mut settings = PoolSettings {
            providers: [
                ("any".to_owned(), remote(&[], None)),
                ("few".to_owned(), remote(&["one", "two/x"], Some("one"))),
                ("loopback".to_owned(), MemberSettings::Local(loopback)),
                ("open".to_owned(), remote(&[], Some("best"))),
            ]
            .into(),
            models: [("fast".to_owned(), vec!["few/two".to_owned(), "any/a/b".to_owned()])].into(),
            default_provider: Some("any".into()),
            upstream: UpstreamSettings::default(),
            cache: None,
        };
        change(&mut settings);
        settings
    }

    fn targets(settings: &PoolSettings, model: &str) -> Result<Vec<String>, String> {
        let targets = Routes::new(settings).unwrap().targets(model);
        targets
            .map(|targets| {
                let shown = |target: Target| format!("{}>{}", target.provider, target.model);
                targets.into_iter().map(shown).collect()
            })
            .map_err(|failure| {
                assert_eq!(failure.class, Class::BadRequest);
                failure.detail
            })
    }

    #[test]
    fn a_model_goes_where_its_name_says() {
        let settings = settings(|_| {});
        for (model, expected) in [
            ("few/one", "few>one"),
            ("few/anything", "few>anything"),
            ("any/meta/llama", "any>meta/llama"),
            ("few", "few>one"),
            ("few/", "few>one"),
            ("loopback", "loopback>"),
            ("loopback/x", "loopback>x"),
            // No provider is named so: the default gets the whole name.
            ("meta/llama", "any>meta/llama"),
            ("two", "any>two"),
            ("", "any>"),
        ] {
            assert_eq!(targets(&settings, model).unwrap(), [expected], "{model}");
        }
        assert_eq!(targets(&settings, "fast").unwrap(), ["few>two", "any>a/b"]);
    }

    #[test]
    fn who_is_not_there_is_refused_with_a_list_of_who_is() {
        for default_provider in [None, Some("few".to_owned())] {
            let settings = settings(|settings| settings.default_provider = default_provider);
            let detail = targets(&settings, "gpt").unwrap_err();
            assert!(detail.contains("\"gpt\"") && detail.contains("any, few, loopback, open"));
            assert!(detail.contains("models fast"), "{detail}");
        }
        let detail = targets(&settings(|_| {}), "any").unwrap_err();
        assert!(detail.contains("any has no default model"), "{detail}");
    }

    #[test]
    fn failover_adds_those_who_have_the_model_or_a_default() {
        let failover = |names: &[&str]| {
            settings(|settings| {
                settings.upstream.failover = names.iter().map(|&name| name.to_owned()).collect();
            })
        };
        let all = failover(&["any", "few", "open", "loopback"]);
        assert_eq!(
            targets(&all, "any/gpt").unwrap(),
            ["any>gpt", "few>one", "open>best", "loopback>gpt"]
        );
        assert_eq!(
            targets(&all, "any/two/x").unwrap(),
            ["any>two/x", "few>two/x", "open>best", "loopback>two/x"]
        );
        assert_eq!(
            targets(&failover(&["open"]), "fast").unwrap(),
            ["few>two", "any>a/b", "open>best"]
        );
    }

    #[test]
    fn names_of_nobody_are_found_at_the_start() {
        let error = |change: fn(&mut PoolSettings)| Routes::new(&settings(change)).unwrap_err();
        let wrong = error(|it| it.default_provider = Some("nobody".into()));
        assert!(wrong.contains("default_provider") && wrong.contains("nobody"), "{wrong}");
        let wrong = error(|it| it.upstream.failover = vec!["nobody".into()]);
        assert!(wrong.contains("upstream.failover"), "{wrong}");
        let wrong = error(|it| drop(it.models.insert("m".into(), vec!["nobody/x".into()])));
        assert!(wrong.contains("models.m.route") && wrong.contains("nobody/x"), "{wrong}");
        let wrong = error(|it| drop(it.models.insert("m".into(), vec![])));
        assert!(wrong.contains("empty"), "{wrong}");
        let wrong = error(|it| drop(it.models.insert("m".into(), vec!["any".into()])));
        assert!(wrong.contains("no default model"), "{wrong}");
    }
}

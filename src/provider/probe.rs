//! Asks an endpoint for its models, outside of a daemon: for `annulus providers check` and `models`.

use std::time::{Duration, SystemTime};

use futures_lite::future::or;
use secrecy::SecretString;

use super::network::{Way, client, headers};
use super::pool::{ProviderSettings, Response, Transport, get};
use crate::config::{RemoteConfig, UpstreamConfig};
use crate::dialect::{Class, Failure, Row, models_page, models_path, refusal};
use crate::executor;

/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of one page; the longest known list has some 1 MiB.
const PAGE_SIZE_MAX: usize = 8 << 20;
/// Pages of one list.
const PAGES_MAX: u32 = 20;
/// Bytes of a refusal that are read.
const REFUSAL_SIZE_MAX: usize = 64 << 10;

/// One endpoint of a provider, and the key to ask it with.
#[derive(Clone, Copy)]
pub struct Probe<'p> {
    /// Its kind.
    pub row: &'static Row,
    /// Its settings.
    pub config: &'p RemoteConfig,
    /// The settings of all providers: proxy, authorities.
    pub upstream: &'p UpstreamConfig,
    /// The endpoint, one of `config.base_urls`.
    pub url: &'p str,
    /// The key, if there is one.
    pub key: Option<&'p SecretString>,
}

impl Probe<'_> {
    /// The models that the endpoint lists; `None` when its kind lists none and it was not asked.
    /// Blocks for 10 seconds at most, over a connection of its own.
    ///
    /// # Errors
    ///
    /// [`Class::Network`]: no connection, and which step failed. Anything else with a status is a
    /// refusal. Texts may have the key in them, as an upstream may repeat it.
    ///
    /// # Panics
    ///
    /// In a task of tokio's, which must not block.
    pub fn models(&self) -> Result<Option<Vec<String>>, Failure> {
        if models_path(self.row, None).is_none() {
            return Ok(None);
        }
        let failed = |detail: String| Failure::new(Class::Network, detail);
        let mut settings = ProviderSettings::new(self.row);
        settings.headers = headers(self.config).map_err(failed)?;
        let client = client(self.upstream).map_err(failed)?;
        let way = Way::new(&client, self.url, self.config).map_err(failed)?;
        let key = self.key.cloned();
        let ran = executor::run(async move {
            let too_late = async {
                executor::sleep(TIME_MAX).await;
                let detail = format!("no whole answer within {} s", TIME_MAX.as_secs());
                Err(Failure::new(Class::Stalled, detail))
            };
            or(all_pages(&way, &settings, key.as_ref()), too_late).await
        });
        ran.map_err(|error| failed(format!("no executor: {error}")))?.map(Some)
    }
}

async fn all_pages(
    way: &Way,
    settings: &ProviderSettings,
    key: Option<&SecretString>,
) -> Result<Vec<String>, Failure> {
    let (mut names, mut next) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let path = models_path(settings.row, next.as_deref()).unwrap_or_default();
        let request = get(path, settings, key, SystemTime::now())?;
        let mut response = way.send(request).await?;
        if !(200..300).contains(&response.status()) {
            let (body, _) = read(&mut *response, REFUSAL_SIZE_MAX).await?;
            let (status, now) = (response.status(), SystemTime::now());
            return Err(refusal(settings.row, status, response.headers(), &body, now));
        }
        let page = match read(&mut *response, PAGE_SIZE_MAX).await? {
            (body, true) => models_page(settings.row, &body),
            (_, false) => {
                let detail = format!("its list of models is larger than {PAGE_SIZE_MAX} bytes");
                Err(Failure::bad_stream(detail))
            }
        };
        // That it answered is worth telling.
        let mut page =
            page.map_err(|failure| Failure { status: Some(response.status()), ..failure })?;
        names.append(&mut page.names);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    Ok(names)
}

/// The body, and whether that is all of it.
async fn read(response: &mut dyn Response, size_max: usize) -> Result<(Vec<u8>, bool), Failure> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        if body.len() + bytes.len() > size_max {
            body.extend_from_slice(&bytes[..size_max - body.len()]);
            return Ok((body, false));
        }
        body.extend_from_slice(&bytes);
    }
    Ok((body, true))
}

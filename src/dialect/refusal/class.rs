//! One table for all providers: what a refusal's status, names and words make it.

use crate::dialect::failure::Class;

/// Names of errors that say more than any status, written without case and punctuation: the
/// services agree on neither. In the order in which they count.
const TELLING: &[(Class, &[&str])] = &[
    (
        Class::Quota,
        &[
            "insufficientquota",
            "insufficientbalance",
            "insufficientcredits",
            "billingerror",
            "billinghardlimitreached",
            "billingnotactive",
            "exceededcurrentquotaerror",
            "paymentrequired",
            "arrearage",
            "servicequotaexceededexception",
        ],
    ),
    (
        Class::Auth,
        &[
            "apikeyinvalid",
            "invalidapikey",
            "authenticationerror",
            "invalidauthenticationerror",
            "unauthenticated",
            "permissionerror",
            "permissiondenied",
            "accessdeniedexception",
            "unrecognizedclientexception",
            "expiredtokenexception",
            "invalidsignatureexception",
            "incompletesignatureexception",
            "missingauthenticationtokenexception",
        ],
    ),
    (Class::BadRequest, &["contentfilter", "contentpolicyviolation", "contextlengthexceeded"]),
    (
        Class::Overloaded,
        &[
            "overloadederror",
            "overloaded",
            "engineoverloaded",
            "engineoverloadederror",
            "unavailable",
            "serviceunavailable",
            "serviceunavailableerror",
            "serviceunavailableexception",
            "modelnotreadyexception",
        ],
    ),
    (Class::RateLimited, LIMITED),
];

/// Names of a limit of the rate.
const LIMITED: &[&str] = &[
    "ratelimiterror",
    "ratelimitexceeded",
    "ratelimited",
    "resourceexhausted",
    "throttling",
    "throttlingratequota",
    "throttlingallocationquota",
    "throttlingexception",
    "toomanyrequests",
    "toomanyrequestsexception",
    "requestquotaexceeded",
    "tokenquotaexceeded",
];

/// Names that tell a wrong request when there is no status: whoever else fails without one is taken
/// for a server with a fault.
const WRONG_REQUEST: &[&str] = &[
    "invalidrequesterror",
    "badrequest",
    "badrequesterror",
    "invalidargument",
    "invalidvalue",
    "failedprecondition",
    "outofrange",
    "notfound",
    "notfounderror",
    "modelnotfound",
    "requesttoolarge",
    "toolusefailed",
    "unsupportedparameter",
    "validationexception",
    "resourcenotfoundexception",
];

/// How messages about a wrong key begin that come as a plain 400 (xAI, Gemini, proxies).
const KEY_IS_WRONG: &[&str] = &[
    "incorrect api key",
    "invalid api key",
    "api key not valid",
    "api key not found",
    "api key expired",
    "no api key",
];

/// What messages about an empty account say.
const ACCOUNT_IS_EMPTY: &[&str] = &[
    "spend limit",
    "spending limit",
    "insufficient balance",
    "credit balance",
    "used all available credits",
    "doesn't have any credits",
    "api calls / month",
];

/// The class of a refusal. `status` is the HTTP status, or what an event of a stream says instead;
/// `code` and `kind` are the names of the error, empty when there is none.
pub(in crate::dialect) fn classify(
    status: Option<u16>,
    code: &str,
    kind: &str,
    message: &str,
) -> Class {
    let status = status.filter(|status| *status >= 300);
    let names = [plain(code), plain(kind)];
    let has = |known: &&str| names.iter().any(|name| name == known);
    // Too large stays too large, although it may be called a rate limit (Groq).
    if status == Some(413) {
        return Class::BadRequest;
    }
    let message = message.trim_start().to_lowercase();
    // Inside of a stream the name stands for the status whose messages repeat nothing.
    let told = status.or_else(|| LIMITED.iter().any(has).then_some(429));
    if let Some(class) = by_words(told, &message) {
        return class;
    }
    if let Some((class, _)) = TELLING.iter().find(|(_, known)| known.iter().any(has)) {
        return *class;
    }
    match status {
        Some(status) => by_status(status),
        None if WRONG_REQUEST.iter().any(has) => Class::BadRequest,
        None if message.contains("overloaded") => Class::Overloaded,
        None if message.contains("rate limit") || message.contains("too many requests") => {
            Class::RateLimited
        }
        None => Class::Server,
    }
}

/// Only where the request's own text cannot stand: see the invariant of the parent module.
fn by_words(status: Option<u16>, message: &str) -> Option<Class> {
    let begins = |known: &&str| message.starts_with(known);
    let says = |known: &&str| message.contains(known);
    match status {
        Some(400) | None if KEY_IS_WRONG.iter().any(begins) => Some(Class::Auth),
        Some(400) | None if message.starts_with("your credit balance is too low") => {
            Some(Class::Quota)
        }
        Some(403 | 429) if ACCOUNT_IS_EMPTY.iter().any(says) => Some(Class::Quota),
        // A refusal of the text, not of the key (OpenRouter).
        Some(403) if message.contains("moderation") || message.contains("flagged") => {
            Some(Class::BadRequest)
        }
        _ => None,
    }
}

const fn by_status(status: u16) -> Class {
    match status {
        401 | 403 | 407 => Class::Auth,
        402 => Class::Quota,
        408 | 409 | 424 | 425 | 499 => Class::Server,
        429 | 498 => Class::RateLimited,
        503 | 529 => Class::Overloaded,
        400..=499 => Class::BadRequest,
        // Redirects among them: they are never followed, and another provider may do.
        _ => Class::Server,
    }
}

/// A name without case and punctuation.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

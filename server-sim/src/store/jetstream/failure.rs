//! Why a request got no answer, or not the one it asked for.

use serde::Deserialize;
use std::fmt;

/// No answer came.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// Whether what was asked may have been done, or may yet be.
    pub(crate) sent: bool,
    /// What happened.
    pub(crate) why: String,
}

/// What the servers say instead of doing what was asked.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ApiError {
    /// As in HTTP.
    #[serde(default)]
    pub(crate) code: u32,
    /// Which error it is.
    #[serde(default)]
    pub(crate) err_code: u32,
    /// What it means.
    #[serde(default)]
    pub(crate) description: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {})", self.description, self.err_code)
    }
}

impl ApiError {
    /// Whether it may be better in a moment: nobody leads, or the servers are busy.
    pub(crate) fn is_passing(&self) -> bool {
        self.code >= 500 && ![NOT_ENABLED, NOT_ENABLED_FOR_ACCOUNT].contains(&self.err_code)
    }
}

pub(crate) const NOT_ENABLED: u32 = 10076;
pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u32 = 10039;

/// Why a request to the API was not granted.
#[derive(Debug, Clone)]
pub(crate) enum ApiFailure {
    Lost(Lost),
    Refused(ApiError),
}

impl From<Lost> for ApiFailure {
    fn from(lost: Lost) -> Self {
        ApiFailure::Lost(lost)
    }
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiFailure::Lost(lost) => f.write_str(&lost.why),
            ApiFailure::Refused(error) => error.fmt(f),
        }
    }
}

//! Settings of clients and producers under their published names.

use super::tls::ClientTlsConfig;
use std::time::Duration;

/// What a batch may hold so that no server refuses it, in encoded bytes; servers refuse more than 1,048,576.
const LARGEST_BATCH: usize = 1_000_000;

/// How a client connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelProviderSettings {
    pub(super) tls: Option<ClientTlsConfig>,
}

/// Builds [`ChannelProviderSettings`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct ChannelProviderSettingsBuilder(ChannelProviderSettings);

impl ChannelProviderSettings {
    /// The defaults: no TLS unless the url asks for it.
    pub fn builder() -> ChannelProviderSettingsBuilder {
        ChannelProviderSettingsBuilder::default()
    }
}

impl ChannelProviderSettingsBuilder {
    /// Accepted and not used: connections are shared and carry any number of calls at a time. What is on its way is bounded
    /// by flow control and by the batches in flight per shard.
    pub fn set_concurrency_limit(self, _concurrency_limit: usize) -> Self {
        self
    }

    /// Speaks TLS, also to `hstream://`.
    pub fn set_tls_config(mut self, tls_config: ClientTlsConfig) -> Self {
        self.0.tls = Some(tls_config);
        self
    }

    /// The settings.
    #[must_use]
    pub fn build(self) -> ChannelProviderSettings {
        self.0
    }
}

/// When a producer sends a batch. With nothing set every record is a batch of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlushSettings {
    len: Option<usize>,
    size: Option<usize>,
    deadline: Option<usize>,
}

/// Builds [`FlushSettings`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct FlushSettingsBuilder(FlushSettings);

impl FlushSettings {
    /// Settings with nothing set.
    pub fn builder() -> FlushSettingsBuilder {
        FlushSettingsBuilder::default()
    }

    /// Every record is a batch of its own.
    #[must_use]
    pub fn sync() -> Self {
        Self::default()
    }

    pub(super) fn max_records(&self) -> u32 {
        match (self.len, self.size) {
            (None, None) => 1,
            (None, Some(_)) => u32::MAX,
            (Some(len), _) => u32::try_from(len).unwrap_or(u32::MAX).max(1),
        }
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.size.unwrap_or(LARGEST_BATCH).clamp(1, LARGEST_BATCH)
    }

    /// Without one the default of 100 ms holds, so that no record waits for ever.
    pub(super) fn max_age(&self) -> Duration {
        self.deadline.map_or(Duration::from_millis(100), |ms| {
            Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)).min(Duration::from_secs(86_400))
        })
    }
}

impl FlushSettingsBuilder {
    /// Records after which a batch is sent.
    pub fn set_max_batch_len(mut self, len: usize) -> Self {
        self.0.len = Some(len);
        self
    }

    /// Encoded bytes a batch does not exceed; more than 1,000,000 count as that, since servers refuse more.
    pub fn set_max_batch_size(mut self, size: usize) -> Self {
        self.0.size = Some(size);
        self
    }

    /// Age in milliseconds at which a batch is sent that is not full; 100 when it is not set.
    pub fn set_batch_deadline(mut self, deadline: usize) -> Self {
        self.0.deadline = Some(deadline);
        self
    }

    /// The settings.
    #[must_use]
    pub fn build(self) -> FlushSettings {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_whatever_is_set() {
        let settings = FlushSettings::builder;
        assert_eq!(FlushSettings::sync().max_records(), 1);
        assert_eq!(settings().set_max_batch_size(5).build().max_records(), u32::MAX);
        assert_eq!(settings().set_max_batch_len(0).build().max_records(), 1);
        assert_eq!(settings().set_max_batch_len(usize::MAX).build().max_records(), u32::MAX);
        assert_eq!(settings().set_max_batch_size(usize::MAX).build().max_bytes(), LARGEST_BATCH);
        assert_eq!(settings().set_max_batch_size(0).build().max_bytes(), 1);
        assert_eq!(settings().build().max_age(), Duration::from_millis(100));
        assert!(settings().set_batch_deadline(usize::MAX).build().max_age() <= Duration::from_secs(86_400));
    }
}

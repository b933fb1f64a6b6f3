"""The published API: clients, producers and consumers for asyncio, as in `hstreamdb` 0.5.0."""

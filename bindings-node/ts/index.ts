/** Client of HStreamDB. Begin with `connect`. */
export { HStreamClient, connect } from './client.js'
export { Consumer } from './consumer.js'
export {
  AlreadyExistsError,
  CancelledError,
  ClosedError,
  CodecError,
  FailedPreconditionError,
  HStreamError,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  OutcomeUnknownError,
  OverloadedError,
  PermissionDeniedError,
  RoutingError,
  TimeoutError,
  UnauthenticatedError,
  UnavailableError,
  UnimplementedError,
  type ErrorKind,
} from './errors.js'
export type {
  CloseReport,
  ConsumerInfo,
  ShardInfo,
  StopReport,
  StreamInfo,
  SubscriptionDetails,
  SubscriptionInfo,
} from './native.js'
export type {
  ClientOptions,
  ConsumerOptions,
  Offset,
  ProducerOptions,
  ReaderOptions,
  StreamOptions,
  SubscriptionOptions,
} from './options.js'
export type { AppendOptions, Payload } from './outbox.js'
export { Producer } from './producer.js'
export { KeyReader, Reader, ShardReader, StreamReader } from './reader.js'
export { ReceivedBatch, RecordId, type ReceivedRecord } from './record.js'

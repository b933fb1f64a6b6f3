/** One error class per kind, all below `HStreamError`. */

/** What an error is about; decides its class. */
export type ErrorKind =
  | 'unavailable'
  | 'routing'
  | 'not_found'
  | 'already_exists'
  | 'invalid_argument'
  | 'failed_precondition'
  | 'unauthenticated'
  | 'permission_denied'
  | 'timeout'
  | 'outcome_unknown'
  | 'overloaded'
  | 'closed'
  | 'cancelled'
  | 'codec'
  | 'unimplemented'
  | 'internal'

/** What an error carries beside its message. */
export interface ErrorDetails {
  kind: ErrorKind
  operation?: string
  resource?: string
  status?: number
  code?: number
  serverMessage?: string
  extra?: unknown
  node?: string
  retryable?: boolean
  mayHaveBeenApplied?: boolean
}

/** Base of every error of this package. `message` is one line: what was tried, on what, where, and what to do. */
export class HStreamError extends Error {
  readonly kind: ErrorKind
  /** What was tried. */
  readonly operation: string | undefined
  /** On which stream, subscription, shard. */
  readonly resource: string | undefined
  /** gRPC status number. */
  readonly status: number | undefined
  /** Error code of the server. */
  readonly code: number | undefined
  /** The server's own words. */
  readonly serverMessage: string | undefined
  /** What the server added as JSON. */
  readonly extra: unknown
  /** Which node answered, or was tried. */
  readonly node: string | undefined
  /** Trying again later may succeed. */
  readonly retryable: boolean
  /** The server may have done it although this error came: doing it again may double it. */
  readonly mayHaveBeenApplied: boolean

  constructor(message: string, details: ErrorDetails) {
    super(message)
    this.kind = details.kind
    this.operation = details.operation ?? undefined
    this.resource = details.resource ?? undefined
    this.status = details.status ?? undefined
    this.code = details.code ?? undefined
    this.serverMessage = details.serverMessage ?? undefined
    this.extra = details.extra ?? undefined
    this.node = details.node ?? undefined
    this.retryable = details.retryable ?? false
    this.mayHaveBeenApplied = details.mayHaveBeenApplied ?? false
  }

  override get name(): string {
    return this.constructor.name
  }
}

/** No server could be reached. */
export class UnavailableError extends HStreamError {}
/** The node asked does not own the resource and no owner was found. */
export class RoutingError extends HStreamError {}
/** The stream, subscription or shard does not exist. */
export class NotFoundError extends HStreamError {}
/** It exists already. */
export class AlreadyExistsError extends HStreamError {}
/** An argument or option is wrong; nothing was done. */
export class InvalidArgumentError extends HStreamError {}
/** The state of the resource does not allow it. */
export class FailedPreconditionError extends HStreamError {}
/** The server does not know who asks. */
export class UnauthenticatedError extends HStreamError {}
/** The server knows who asks and refuses. */
export class PermissionDeniedError extends HStreamError {}
/** No answer in time. */
export class TimeoutError extends HStreamError {}
/** It may or may not have been done, and trying again could do it twice. */
export class OutcomeUnknownError extends HStreamError {}
/** No room: a limit of the client or of the server is reached. */
export class OverloadedError extends HStreamError {}
/** The client, producer, consumer or reader is closed. */
export class ClosedError extends HStreamError {}
/** The call was cancelled. */
export class CancelledError extends HStreamError {}
/** Bytes that cannot be decoded or encoded. */
export class CodecError extends HStreamError {}
/** The server does not know the call. */
export class UnimplementedError extends HStreamError {}
/** A defect of the server or of this client. */
export class InternalError extends HStreamError {}

/** The class of each kind. */
export const errorClasses: Readonly<Record<ErrorKind, typeof HStreamError>> = {
  unavailable: UnavailableError,
  routing: RoutingError,
  not_found: NotFoundError,
  already_exists: AlreadyExistsError,
  invalid_argument: InvalidArgumentError,
  failed_precondition: FailedPreconditionError,
  unauthenticated: UnauthenticatedError,
  permission_denied: PermissionDeniedError,
  timeout: TimeoutError,
  outcome_unknown: OutcomeUnknownError,
  overloaded: OverloadedError,
  closed: ClosedError,
  cancelled: CancelledError,
  codec: CodecError,
  unimplemented: UnimplementedError,
  internal: InternalError,
}

/** The error of a kind. */
export function makeError(message: string, details: ErrorDetails): HStreamError {
  const Class = errorClasses[details.kind] ?? HStreamError
  return new Class(message, details)
}

/** The error that the native half wrote as JSON. */
export function fromJson(text: string): HStreamError {
  const { hstreamdb, text: line, message, ...rest } = JSON.parse(text)
  return makeError(line, { ...rest, kind: hstreamdb, serverMessage: message })
}

/** What to throw for what the native half threw or rejected with: an argument of a wrong type is invalid, too. */
export function fromNative(thrown: unknown): unknown {
  if (!(thrown instanceof Error) || thrown instanceof HStreamError) return thrown
  if (thrown.message.startsWith('{"')) {
    try {
      return fromJson(thrown.message)
    } catch {
      return thrown
    }
  }
  const code = (thrown as { code?: string }).code
  if (code !== undefined && /(Arg|Expected)$/.test(code)) {
    return new InvalidArgumentError(thrown.message, { kind: 'invalid_argument' })
  }
  return thrown
}

/** Awaits a native call; its errors come out as `HStreamError`. */
export async function native<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw fromNative(error)
  }
}

/** The same for a call that answers at once. */
export function nativeSync<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw fromNative(error)
  }
}

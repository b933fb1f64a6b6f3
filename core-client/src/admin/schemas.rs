//! Schemas: the columns of a stream, where the server keeps them.

use crate::{client::Client, cluster::Target, error::Result, retry::Operation};
use hstreamdb_proto::api;

/// A column of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Place among the columns, from 0.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Name of its SQL type, such as `INTEGER`.
    pub data_type: String,
    /// Whether it may hold no value.
    pub nullable: bool,
    /// Whether `SELECT *` leaves it out.
    pub hidden: bool,
}

/// The columns of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Name of the stream.
    pub owner: String,
    /// Its columns.
    pub columns: Vec<Column>,
}

impl From<api::Schema> for Schema {
    fn from(schema: api::Schema) -> Self {
        let column = |column: api::ColumnCatalog| Column {
            index: column.index,
            name: column.name,
            data_type: column.r#type,
            nullable: column.is_nullable,
            hidden: column.is_hidden,
        };
        Schema { owner: schema.owner, columns: schema.columns.into_iter().map(column).collect() }
    }
}

impl From<&Schema> for api::Schema {
    fn from(schema: &Schema) -> Self {
        let column = |column: &Column| api::ColumnCatalog {
            index: column.index,
            name: column.name.clone(),
            r#type: column.data_type.clone(),
            is_nullable: column.nullable,
            is_hidden: column.hidden,
        };
        api::Schema { owner: schema.owner.clone(), columns: schema.columns.iter().map(column).collect() }
    }
}

impl Client {
    /// Stores the columns of a stream. Published servers keep what was registered first and say nothing about it:
    /// unregister before a change.
    ///
    /// # Errors
    /// `Unimplemented` where the server was built without schemas, which is the default; `Unavailable`, `Timeout`,
    /// `Closed`. It is repeated after unclear failures, which is harmless.
    pub async fn register_schema(&self, schema: &Schema) -> Result<()> {
        let operation = Operation::repeatable("register schema");
        let request = api::Schema::from(schema);
        self.unary(operation, Some(&schema.owner), Target::Any, request, |mut client, request| async move {
            client.register_schema(request).await
        })
        .await
    }

    /// The columns of a stream.
    ///
    /// # Errors
    /// `NotFound`, and as [`register_schema`](Self::register_schema).
    pub async fn get_schema(&self, owner: &str) -> Result<Schema> {
        let operation = Operation::read("get schema");
        let request = api::GetSchemaRequest { owner: owner.to_owned() };
        let schema = self
            .unary(operation, Some(owner), Target::Any, request, |mut client, request| async move {
                client.get_schema(request).await
            })
            .await?;
        Ok(schema.into())
    }

    /// Forgets the columns of a stream; that there are none is no error.
    ///
    /// # Errors
    /// As [`register_schema`](Self::register_schema).
    pub async fn unregister_schema(&self, owner: &str) -> Result<()> {
        let operation = Operation::repeatable("unregister schema");
        let request = api::UnregisterSchemaRequest { owner: owner.to_owned() };
        self.unary(operation, Some(owner), Target::Any, request, |mut client, request| async move {
            client.unregister_schema(request).await
        })
        .await
    }
}

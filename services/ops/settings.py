"""Settings of the tools."""

from __future__ import annotations

from pydantic import Field, SecretStr

from kit.settings import Settings


class PrepareSettings(Settings):
    """What `python -m ops.prepare` can be told: where NATS is, how many copies it keeps."""


class BackupSettings(Settings):
    """What `python -m ops.backup` can be told, besides where the documents and NATS are."""

    backup_url: str = Field(
        default="", description="where backups are kept: file:///folder or s3://bucket/prefix"
    )
    backup_aws_endpoint: str = Field(
        default="", description="S3 endpoint of the backups; empty: that of the objects, AWS_ENDPOINT"
    )
    backup_aws_region: str = Field(default="", description="S3 region of the backups; empty: AWS_REGION")
    backup_aws_access_key_id: str = Field(
        default="", description="S3 key of the backups; empty: AWS_ACCESS_KEY_ID"
    )
    backup_aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="its secret; empty: AWS_SECRET_ACCESS_KEY"
    )
    object_store_url: str = Field(
        default="", description="the vault's objects, as the dossier service has it"
    )
    database_prefix: str = Field(default="motcua_", description="what the names of all databases begin with")

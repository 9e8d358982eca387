"""What a store holds, by boto3 alone: without the code under test."""

from jobs.local_s3 import LocalS3

DATA = bytes(range(256)) * 1000


def put(s3: LocalS3, uri: str, data: bytes = DATA) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3.client.put_object(Bucket=bucket, Key=key, Body=data)
    return uri


def stored(s3: LocalS3, bucket: str) -> dict[str, bytes]:
    """All objects of a bucket."""
    name = bucket.removeprefix("s3://")
    listed = s3.client.list_objects_v2(Bucket=name).get("Contents", [])
    return {
        found["Key"]: s3.client.get_object(Bucket=name, Key=found["Key"])["Body"].read()
        for found in listed
    }


def unfinished_uploads(s3: LocalS3, bucket: str) -> list[str]:
    found = s3.client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
    return [upload["Key"] for upload in found.get("Uploads", [])]

"""Every build check on the examples of its page in Docker's reference: the bad one is told, the good ones not."""

from __future__ import annotations

import pytest

from sampan.build import lint
from sampan.build.grammar import read_dockerfile
from sampan.build.ignore import Ignore
from sampan.build.options import BuildOptions, native

BAD = [
    (
        "ConsistentInstructionCasing",
        'From alpine\nRun echo hello > /greeting.txt\nEntRYpOiNT ["cat", "/greeting.txt"]\n',
        "Command 'EntRYpOiNT' should be consistently cased",
    ),
    (
        "CopyIgnoredFile",
        "FROM scratch\nCOPY ./tmp/helloworld.txt /helloworld.txt\n",
        'Attempting to COPY file "./tmp/helloworld.txt" that is excluded by .dockerignore',
    ),
    (
        "DuplicateStageName",
        "FROM debian:latest AS builder\nRUN apt-get update\n\nFROM golang:latest AS builder\n",
        'Duplicate stage name "builder", stage names should be unique',
    ),
    (
        "ExposeInvalidFormat",
        "FROM alpine\nEXPOSE 127.0.0.1:80:80\n",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
    ),
    (
        "ExposeInvalidFormat",
        "FROM alpine\nEXPOSE 80:80\n",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
    ),
    (
        "ExposeProtoCasing",
        "FROM alpine\nEXPOSE 80/TcP\n",
        "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase",
    ),
    (
        "FromAsCasing",
        "FROM debian:latest as builder\n",
        "'as' and 'FROM' keywords' casing do not match",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        f"FROM --platform={native()} alpine AS base\nRUN apk add --no-cache git\n",
        f'FROM --platform flag should not use constant value "{native()}"',
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG TAG\nFROM busybox:${TAG}\n",
        "Default value for ARG busybox:${TAG} results in empty or invalid base image name",
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=all\n\n# a non-descriptive comment\nFROM scratch AS base\n",
        "Comment for FROM should follow the format: `# base <description>`",
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=InvalidDefinitionDescription\nFROM scratch AS base\n\n# another comment\nARG VERSION=1\n",
        "Comment for ARG should follow the format: `# VERSION <description>`",
    ),
    (
        "JSONArgsRecommended",
        "FROM alpine\nENTRYPOINT my-program start\n",
        "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
    ),
    (
        "LegacyKeyValueFormat",
        "FROM alpine\nENV foo bar\n",
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
    ),
    (
        "LegacyKeyValueFormat",
        "FROM alpine\nENV DEPS \\\n    curl \\\n    git \\\n    make\n",
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
    ),
    (
        "MaintainerDeprecated",
        "FROM alpine\nMAINTAINER moby@example.com\n",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    (
        "MultipleInstructionsDisallowed",
        'FROM alpine\nENTRYPOINT ["echo", "Hello, Norway!"]\nENTRYPOINT ["echo", "Hello, Sweden!"]\n',
        "Multiple ENTRYPOINT instructions should not be used in the same stage "
        "because only the last one will be used",
    ),
    (
        "NoEmptyContinuation",
        "FROM alpine\nEXPOSE \\\n\n80\n",
        "Empty continuation line found in: EXPOSE 80",
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM alpine AS builder\nRUN apk add --no-cache git\n",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    (
        "ReservedStageName",
        "FROM alpine AS scratch\n",
        'Stage name should not use the same name as reserved stage "scratch"',
    ),
    (
        "ReservedStageName",
        "FROM alpine AS context\n",
        'Stage name should not use the same name as reserved stage "context"',
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM alpine\nARG AWS_ACCESS_KEY_ID\nRUN aws s3 cp s3://my-bucket/file .\n",
        'Do not use ARG or ENV instructions for sensitive data (ARG "AWS_ACCESS_KEY_ID")',
    ),
    ("StageNameCasing", "FROM alpine AS BuilderBase\n", "Stage name 'BuilderBase' should be lowercase"),
    (
        "UndefinedArgInFrom",
        "FROM node:22${VARIANT} AS jsbuilder\n",
        "FROM argument 'VARIANT' is not declared",
    ),
    ("UndefinedVar", "FROM alpine AS base\nCOPY $foo .\n", "Usage of undefined variable '$foo'"),
    ("UndefinedVar", "FROM alpine AS base\nARG VERSION=$foo\n", "Usage of undefined variable '$foo'"),
    (
        "UndefinedVar",
        "FROM alpine\nENV PATH=$PAHT:/app/bin\n",
        "Usage of undefined variable '$PAHT' (did you mean $PATH?)",
    ),
    (
        "WorkdirRelativePath",
        "FROM nginx AS web\nWORKDIR usr/share/nginx/html\nCOPY public .\n",
        "Relative workdir 'usr/share/nginx/html' can have unexpected results if the base image changes",
    ),
]

GOOD = [
    'FROM alpine\nRUN echo hello > /greeting.txt\nENTRYPOINT ["cat", "/greeting.txt"]\n',
    'from alpine\nrun echo hello > /greeting.txt\nentrypoint ["cat", "/greeting.txt"]\n',
    "FROM scratch\nCOPY ./forever/helloworld.txt /helloworld.txt\n",
    "FROM debian:latest AS deb-builder\nRUN apt-get update\n\nFROM golang:latest AS go-builder\n",
    "FROM alpine\nEXPOSE 80\n",
    "FROM alpine\nEXPOSE 80/tcp\n",
    "from debian:latest as deb-builder\n",
    "FROM --platform=${BUILDPLATFORM} alpine AS base\nRUN apk add --no-cache git\n",
    "FROM --platform=linux/amd64 alpine AS build_amd64\n\nFROM --platform=linux/arm64 alpine AS build_arm64\n\n"
    "FROM build_${TARGETARCH} AS build\n",
    "ARG TAG=latest\nFROM busybox:${TAG}\n",
    "ARG VARIANT\nFROM busybox:stable${VARIANT}\n",
    "ARG TAG\nFROM alpine:${TAG:-3.14}\n",
    "# a non-descriptive comment\nFROM scratch AS base\n",
    "# check=experimental=all\n# a non-descriptive comment\n\nFROM scratch AS base\n\n# another\n\nARG VERSION=1\n",
    "# check=experimental=all\nFROM scratch AS base\n",
    "# check=experimental=all\n\n# base is a stage for compiling source\nFROM scratch AS base\n"
    "# VERSION This is the version number.\nARG VERSION=1\n",
    'FROM alpine\nENTRYPOINT ["my-program", "start"]\n',
    'FROM alpine\nRUN apk add bash\nSHELL ["/bin/bash", "-c"]\nENTRYPOINT echo "hello world"\n',
    'FROM alpine\nCOPY --chmod=755 <<EOT /entrypoint.sh\n#!/bin/sh\nEOT\nENTRYPOINT ["/entrypoint.sh"]\n',
    "FROM alpine\nARG foo=bar\n",
    'FROM alpine\nENV DEPS="\\\n    curl \\\n    git \\\n    make"\n',
    'FROM alpine\nLABEL org.opencontainers.image.authors="moby@example.com"\n',
    'FROM alpine\nHEALTHCHECK --interval=1s --timeout=3s \\\n  CMD ["curl", "-f", "http://localhost:8080"]\n'
    'CMD ["python", "-m", "http.server", "8080"]\n',
    "FROM alpine\nEXPOSE \\\n# Port\n80\n",
    "FROM alpine AS builder\nRUN apk add --no-cache git\n",
    "FROM alpine\nRUN --mount=type=secret,id=aws_key_id,env=AWS_ACCESS_KEY_ID \\\n    aws s3 cp s3://my-bucket/file .\n",
    "FROM alpine AS builder-base\n",
    'ARG VARIANT="-alpine3.20"\nFROM node:22${VARIANT} AS jsbuilder\n',
    "FROM alpine AS base\nARG foo\nCOPY $foo .\n",
    "FROM python AS base\nARG VERSION=$PYTHON_VERSION\n",
    "FROM nginx AS web\nWORKDIR /usr/share/nginx/html\nCOPY public .\n",
    "FROM nginx AS web\nWORKDIR /usr\nWORKDIR share\n",
]

IGNORE = Ignore.parse(b"*/tmp/*\ntmp/*\n")
BASES = {"python": {"PATH", "PYTHON_VERSION"}, "alpine": {"PATH"}}


def found(text: str, **args: str | None) -> list[lint.Finding]:
    file = read_dockerfile(text.encode())
    return lint.check(file, BuildOptions(args=dict(args)), IGNORE, BASES.get)


@pytest.mark.parametrize(("rule", "text", "message"), BAD)
def test_bad_example(rule: str, text: str, message: str) -> None:
    assert message in [one.message for one in found(text) if one.rule == rule]


@pytest.mark.parametrize("text", GOOD)
def test_good_example(text: str) -> None:
    assert [one.text for one in found(text)] == []


def test_addresses_of_the_pages() -> None:
    urls = {one.rule: one.url for _, text, _ in BAD for one in found(text)}
    assert urls["JSONArgsRecommended"].endswith("/json-args-recommended/")
    assert urls["SecretsUsedInArgOrEnv"].endswith("/secrets-used-in-arg-or-env/")


def test_the_build_argument_stands_above_the_directive() -> None:
    text = "# check=skip=StageNameCasing\nFROM alpine AS Big\nWORKDIR rel\n"
    assert [one.rule for one in found(text)] == ["WorkdirRelativePath"]
    assert [one.rule for one in found(text, BUILDKIT_DOCKERFILE_CHECK="skip=WorkdirRelativePath")] == [
        "StageNameCasing"
    ]

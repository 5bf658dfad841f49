-- SPDX-License-Identifier: Apache-2.0

-- Schema 2 as it was released, with rows in every table; never changed again.

CREATE TABLE ci_approval (
	connection VARCHAR(100) NOT NULL,
	change_number INTEGER NOT NULL,
	patchset INTEGER NOT NULL,
	account VARCHAR(255) NOT NULL,
	label VARCHAR(100) NOT NULL,
	name VARCHAR(255) NOT NULL,
	value INTEGER NOT NULL,
	said VARCHAR(20) NOT NULL,
	is_ci BOOLEAN NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection, change_number, patchset, account, label)
);

CREATE INDEX ci_approval_ci ON ci_approval (is_ci, at);

CREATE TABLE ci_audit (
	id SERIAL NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	by VARCHAR(255) NOT NULL,
	action VARCHAR(40) NOT NULL,
	subject VARCHAR(255) NOT NULL,
	note TEXT NOT NULL,
	PRIMARY KEY (id)
);

CREATE TABLE ci_branch (
	connection VARCHAR(100) NOT NULL,
	project VARCHAR(255) NOT NULL,
	name VARCHAR(255) NOT NULL,
	tip VARCHAR(64) NOT NULL,
	moved_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection, project, name)
);

CREATE TABLE ci_change (
	connection VARCHAR(100) NOT NULL,
	number INTEGER NOT NULL,
	project VARCHAR(255) NOT NULL,
	branch VARCHAR(255) NOT NULL,
	change_id VARCHAR(64) NOT NULL,
	subject TEXT NOT NULL,
	owner VARCHAR(255) NOT NULL,
	url TEXT NOT NULL,
	status VARCHAR(20) NOT NULL,
	patchset INTEGER NOT NULL,
	updated_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	seen_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (connection, number)
);

CREATE INDEX ci_change_number ON ci_change (number);

CREATE TABLE ci_connection (
	name VARCHAR(100) NOT NULL,
	state VARCHAR(20) NOT NULL,
	message TEXT NOT NULL,
	since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	malformed INTEGER NOT NULL,
	unknown INTEGER NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_event (
	id SERIAL NOT NULL,
	connection VARCHAR(100) NOT NULL,
	key VARCHAR(200) NOT NULL,
	kind VARCHAR(40) NOT NULL,
	project VARCHAR(255) NOT NULL,
	change_number INTEGER NOT NULL,
	patchset INTEGER,
	payload JSON NOT NULL,
	source VARCHAR(20) NOT NULL,
	author VARCHAR(255) NOT NULL,
	occurred_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	received_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	processed_at TIMESTAMP WITHOUT TIME ZONE,
	decision TEXT,
	PRIMARY KEY (id),
	UNIQUE (connection, key)
);

CREATE INDEX ci_event_change ON ci_event (connection, change_number);

CREATE INDEX ci_event_todo ON ci_event (processed_at, id);

CREATE TABLE ci_node (
	name VARCHAR(100) NOT NULL,
	label VARCHAR(100) NOT NULL,
	provider VARCHAR(100) NOT NULL,
	state VARCHAR(20) NOT NULL,
	reason TEXT NOT NULL,
	failures INTEGER NOT NULL,
	checked_at TIMESTAMP WITHOUT TIME ZONE,
	token INTEGER NOT NULL,
	holder VARCHAR(32),
	leased_at TIMESTAMP WITHOUT TIME ZONE,
	expires_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (name)
);

CREATE TABLE ci_notice (
	id SERIAL NOT NULL,
	kind VARCHAR(30) NOT NULL,
	key VARCHAR(200) NOT NULL,
	subject TEXT NOT NULL,
	text TEXT NOT NULL,
	url TEXT NOT NULL,
	facts JSON NOT NULL,
	occurred_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (key)
);

CREATE TABLE ci_reporter (
	name VARCHAR(100) NOT NULL,
	seen INTEGER NOT NULL,
	since TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE ci_schema (
	version SERIAL NOT NULL,
	PRIMARY KEY (version)
);

CREATE TABLE ci_watermark (
	connection VARCHAR(100) NOT NULL,
	at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	PRIMARY KEY (connection)
);

CREATE TABLE ci_buildset (
	id VARCHAR(32) NOT NULL,
	connection VARCHAR(100) NOT NULL,
	project VARCHAR(255) NOT NULL,
	branch VARCHAR(255) NOT NULL,
	change_number INTEGER NOT NULL,
	patchset INTEGER NOT NULL,
	revision VARCHAR(64) NOT NULL,
	ref VARCHAR(100) NOT NULL,
	pipeline VARCHAR(40) NOT NULL,
	recheck INTEGER NOT NULL,
	event_id INTEGER,
	reason TEXT NOT NULL,
	requested_by VARCHAR(255) NOT NULL,
	request TEXT NOT NULL,
	made_up BOOLEAN NOT NULL,
	depends JSON,
	state VARCHAR(20) NOT NULL,
	verdict JSON,
	created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (connection, change_number, patchset, pipeline, recheck),
	FOREIGN KEY(event_id) REFERENCES ci_event (id)
);

CREATE INDEX ci_buildset_change ON ci_buildset (change_number);

CREATE INDEX ci_buildset_created ON ci_buildset (created_at);

CREATE INDEX ci_buildset_requested ON ci_buildset (requested_by, created_at);

CREATE INDEX ci_buildset_state ON ci_buildset (state);

CREATE TABLE ci_delivery (
	id SERIAL NOT NULL,
	notice_id INTEGER NOT NULL,
	reporter VARCHAR(100) NOT NULL,
	state VARCHAR(20) NOT NULL,
	tries INTEGER NOT NULL,
	next_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	error TEXT NOT NULL,
	settled_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (notice_id, reporter),
	FOREIGN KEY(notice_id) REFERENCES ci_notice (id)
);

CREATE INDEX ci_delivery_todo ON ci_delivery (reporter, state, next_at);

CREATE TABLE ci_build (
	id VARCHAR(32) NOT NULL,
	buildset_id VARCHAR(32) NOT NULL,
	job_name VARCHAR(100) NOT NULL,
	job JSON NOT NULL,
	node_label VARCHAR(100) NOT NULL,
	voting BOOLEAN NOT NULL,
	state VARCHAR(20) NOT NULL,
	waiting TEXT NOT NULL,
	cancel_reason TEXT,
	result VARCHAR(20),
	failure_class VARCHAR(20),
	reason TEXT NOT NULL,
	judgement JSON,
	queued_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	started_at TIMESTAMP WITHOUT TIME ZONE,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	FOREIGN KEY(buildset_id) REFERENCES ci_buildset (id)
);

CREATE INDEX ci_build_buildset ON ci_build (buildset_id);

CREATE INDEX ci_build_queued ON ci_build (queued_at, id);

CREATE INDEX ci_build_state ON ci_build (state);

CREATE TABLE ci_outbox (
	id SERIAL NOT NULL,
	buildset_id VARCHAR(32) NOT NULL,
	connection VARCHAR(100) NOT NULL,
	project VARCHAR(255) NOT NULL,
	change_number INTEGER NOT NULL,
	patchset INTEGER NOT NULL,
	revision VARCHAR(64) NOT NULL,
	tag VARCHAR(100) NOT NULL,
	marker VARCHAR(255) NOT NULL,
	message TEXT NOT NULL,
	label VARCHAR(100),
	value INTEGER,
	state VARCHAR(20) NOT NULL,
	stale VARCHAR(10) NOT NULL,
	transport VARCHAR(10) NOT NULL,
	tries INTEGER NOT NULL,
	next_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	error TEXT NOT NULL,
	created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	settled_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (buildset_id),
	FOREIGN KEY(buildset_id) REFERENCES ci_buildset (id)
);

CREATE INDEX ci_outbox_todo ON ci_outbox (state, next_at);

CREATE TABLE ci_attempt (
	id VARCHAR(32) NOT NULL,
	build_id VARCHAR(32) NOT NULL,
	number INTEGER NOT NULL,
	kind VARCHAR(20) NOT NULL,
	state VARCHAR(20) NOT NULL,
	phase VARCHAR(20) NOT NULL,
	result VARCHAR(20),
	error TEXT NOT NULL,
	hint TEXT NOT NULL,
	node VARCHAR(100),
	token INTEGER,
	grade VARCHAR(20) NOT NULL,
	hypervisor VARCHAR(255) NOT NULL,
	facts JSON NOT NULL,
	tip VARCHAR(64),
	tree VARCHAR(64),
	base_tree VARCHAR(64),
	exit_status INTEGER,
	interrupted BOOLEAN NOT NULL,
	dependency BOOLEAN NOT NULL,
	started_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
	leased_at TIMESTAMP WITHOUT TIME ZONE,
	suite_started_at TIMESTAMP WITHOUT TIME ZONE,
	finished_at TIMESTAMP WITHOUT TIME ZONE,
	PRIMARY KEY (id),
	UNIQUE (build_id, number),
	FOREIGN KEY(build_id) REFERENCES ci_build (id)
);

CREATE INDEX ci_attempt_tree ON ci_attempt (tree);

CREATE TABLE ci_outcome (
	id SERIAL NOT NULL,
	attempt_id VARCHAR(32) NOT NULL,
	test_id VARCHAR(500) NOT NULL,
	status VARCHAR(10) NOT NULL,
	duration_s FLOAT NOT NULL,
	message TEXT NOT NULL,
	details TEXT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(attempt_id) REFERENCES ci_attempt (id)
);

CREATE INDEX ci_outcome_attempt ON ci_outcome (attempt_id);

CREATE INDEX ci_outcome_test ON ci_outcome (test_id);

INSERT INTO ci_approval (connection, change_number, patchset, account, label, name, value, said, is_ci, at) VALUES ('approval connection 1 it''s ✓', 10, 2147483001, 'approval account 1 it''s ✓', 'approval label 1 it''s ✓', 'approval name 1 it''s ✓', 10, 'said 1', true, '2026-03-29 01:30:00.123456');

INSERT INTO ci_approval (connection, change_number, patchset, account, label, name, value, said, is_ci, at) VALUES ('approval connection 2 it''s ✓', 20, 2147483002, 'approval account 2 it''s ✓', 'approval label 2 it''s ✓', 'approval name 2 it''s ✓', 20, 'said 2', false, '2026-07-07 01:30:00.123456');

INSERT INTO ci_audit (id, at, by, action, subject, note) VALUES (10, '2026-03-29 01:30:00.123456', 'audit by 1 it''s ✓', 'audit action 1 it''s ✓', 'audit subject 1 it''s ✓', 'audit note 1 it''s ✓');

INSERT INTO ci_audit (id, at, by, action, subject, note) VALUES (20, '2026-07-07 01:30:00.123456', 'audit by 2 it''s ✓', 'audit action 2 it''s ✓', 'audit subject 2 it''s ✓', 'audit note 2 it''s ✓');

SELECT setval(pg_get_serial_sequence('ci_audit', 'id'), 20);

INSERT INTO ci_branch (connection, project, name, tip, moved_at) VALUES ('branch connection 1 it''s ✓', 'branch project 1 it''s ✓', 'branch name 1 it''s ✓', '1111111111111111111111111111111111111111', '2026-03-29 01:30:00.123456');

INSERT INTO ci_branch (connection, project, name, tip, moved_at) VALUES ('branch connection 2 it''s ✓', 'branch project 2 it''s ✓', 'branch name 2 it''s ✓', '2222222222222222222222222222222222222222', '2026-07-07 01:30:00.123456');

INSERT INTO ci_change (connection, number, project, branch, change_id, subject, owner, url, status, patchset, updated_at, seen_at) VALUES ('change connection 1 it''s ✓', 10, 'change project 1 it''s ✓', 'change branch 1 it''s ✓', 'change change_id 1 it''s ✓', 'change subject 1 it''s ✓', 'change owner 1 it''s ✓', 'change url 1 it''s ✓', 'status 1', 2147483001, '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_change (connection, number, project, branch, change_id, subject, owner, url, status, patchset, updated_at, seen_at) VALUES ('change connection 2 it''s ✓', 20, 'change project 2 it''s ✓', 'change branch 2 it''s ✓', 'change change_id 2 it''s ✓', 'change subject 2 it''s ✓', 'change owner 2 it''s ✓', 'change url 2 it''s ✓', 'status 2', 2147483002, '2026-07-07 01:30:00.123456', NULL);

INSERT INTO ci_connection (name, state, message, since, malformed, unknown) VALUES ('connection name 1 it''s ✓', 'done', 'connection message 1 it''s ✓', '2026-03-29 01:30:00.123456', 10, 10);

INSERT INTO ci_connection (name, state, message, since, malformed, unknown) VALUES ('connection name 2 it''s ✓', 'queued', 'connection message 2 it''s ✓', '2026-07-07 01:30:00.123456', 20, 20);

INSERT INTO ci_event (id, connection, key, kind, project, change_number, patchset, payload, source, author, occurred_at, received_at, processed_at, decision) VALUES (10, 'event connection 1 it''s ✓', 'event key 1 it''s ✓', 'event kind 1 it''s ✓', 'event project 1 it''s ✓', 10, 2147483001, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'source 1', 'event author 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', 'event decision 1 it''s ✓');

INSERT INTO ci_event (id, connection, key, kind, project, change_number, patchset, payload, source, author, occurred_at, received_at, processed_at, decision) VALUES (20, 'event connection 2 it''s ✓', 'event key 2 it''s ✓', 'event kind 2 it''s ✓', 'event project 2 it''s ✓', 20, NULL, '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', 'source 2', 'event author 2 it''s ✓', '2026-07-07 01:30:00.123456', '2026-07-07 01:30:00.123456', NULL, NULL);

SELECT setval(pg_get_serial_sequence('ci_event', 'id'), 20);

INSERT INTO ci_node (name, label, provider, state, reason, failures, checked_at, token, holder, leased_at, expires_at) VALUES ('node name 1 it''s ✓', 'node label 1 it''s ✓', 'node provider 1 it''s ✓', 'done', 'node reason 1 it''s ✓', 10, '2026-03-29 01:30:00.123456', 10, 'node holder 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_node (name, label, provider, state, reason, failures, checked_at, token, holder, leased_at, expires_at) VALUES ('node name 2 it''s ✓', 'node label 2 it''s ✓', 'node provider 2 it''s ✓', 'queued', 'node reason 2 it''s ✓', 20, NULL, 20, NULL, NULL, NULL);

INSERT INTO ci_notice (id, kind, key, subject, text, url, facts, occurred_at) VALUES (10, 'notice kind 1 it''s ✓', 'notice key 1 it''s ✓', 'notice subject 1 it''s ✓', 'notice text 1 it''s ✓', 'notice url 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '2026-03-29 01:30:00.123456');

INSERT INTO ci_notice (id, kind, key, subject, text, url, facts, occurred_at) VALUES (20, 'notice kind 2 it''s ✓', 'notice key 2 it''s ✓', 'notice subject 2 it''s ✓', 'notice text 2 it''s ✓', 'notice url 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', '2026-07-07 01:30:00.123456');

SELECT setval(pg_get_serial_sequence('ci_notice', 'id'), 20);

INSERT INTO ci_reporter (name, seen, since) VALUES ('reporter name 1 it''s ✓', 10, '2026-03-29 01:30:00.123456');

INSERT INTO ci_reporter (name, seen, since) VALUES ('reporter name 2 it''s ✓', 20, '2026-07-07 01:30:00.123456');

INSERT INTO ci_schema (version) VALUES (2);

INSERT INTO ci_watermark (connection, at) VALUES ('watermark connection 1 it''s ✓', '2026-03-29 01:30:00.123456');

INSERT INTO ci_watermark (connection, at) VALUES ('watermark connection 2 it''s ✓', '2026-07-07 01:30:00.123456');

INSERT INTO ci_buildset (id, connection, project, branch, change_number, patchset, revision, ref, pipeline, recheck, event_id, reason, requested_by, request, made_up, depends, state, verdict, created_at, finished_at) VALUES ('buildset id 1 it''s ✓', 'buildset connection 1 it''s ✓', 'buildset project 1 it''s ✓', 'buildset branch 1 it''s ✓', 10, 2147483001, '1111111111111111111111111111111111111111', 'buildset ref 1 it''s ✓', 'buildset pipeline 1 it''s ✓', 10, 10, 'buildset reason 1 it''s ✓', 'buildset requested_by 1 it''s ✓', 'buildset request 1 it''s ✓', true, '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'done', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_buildset (id, connection, project, branch, change_number, patchset, revision, ref, pipeline, recheck, event_id, reason, requested_by, request, made_up, depends, state, verdict, created_at, finished_at) VALUES ('buildset id 2 it''s ✓', 'buildset connection 2 it''s ✓', 'buildset project 2 it''s ✓', 'buildset branch 2 it''s ✓', 20, 2147483002, '2222222222222222222222222222222222222222', 'buildset ref 2 it''s ✓', 'buildset pipeline 2 it''s ✓', 20, 20, 'buildset reason 2 it''s ✓', 'buildset requested_by 2 it''s ✓', 'buildset request 2 it''s ✓', false, NULL, 'queued', NULL, '2026-07-07 01:30:00.123456', NULL);

INSERT INTO ci_delivery (id, notice_id, reporter, state, tries, next_at, error, settled_at) VALUES (10, 10, 'delivery reporter 1 it''s ✓', 'done', 10, '2026-03-29 01:30:00.123456', 'delivery error 1 it''s ✓', '2026-03-29 01:30:00.123456');

INSERT INTO ci_delivery (id, notice_id, reporter, state, tries, next_at, error, settled_at) VALUES (20, 20, 'delivery reporter 2 it''s ✓', 'queued', 20, '2026-07-07 01:30:00.123456', 'delivery error 2 it''s ✓', NULL);

SELECT setval(pg_get_serial_sequence('ci_delivery', 'id'), 20);

INSERT INTO ci_build (id, buildset_id, job_name, job, node_label, voting, state, waiting, cancel_reason, result, failure_class, reason, judgement, queued_at, started_at, finished_at) VALUES ('build id 1 it''s ✓', 'buildset id 1 it''s ✓', 'build job_name 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', 'build node_label 1 it''s ✓', true, 'done', 'build waiting 1 it''s ✓', 'build cancel_reason 1 it''s ✓', 'result 1', 'failure_class 1', 'build reason 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_build (id, buildset_id, job_name, job, node_label, voting, state, waiting, cancel_reason, result, failure_class, reason, judgement, queued_at, started_at, finished_at) VALUES ('build id 2 it''s ✓', 'buildset id 2 it''s ✓', 'build job_name 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', 'build node_label 2 it''s ✓', false, 'queued', 'build waiting 2 it''s ✓', NULL, NULL, NULL, 'build reason 2 it''s ✓', NULL, '2026-07-07 01:30:00.123456', NULL, NULL);

INSERT INTO ci_outbox (id, buildset_id, connection, project, change_number, patchset, revision, tag, marker, message, label, value, state, stale, transport, tries, next_at, error, created_at, settled_at) VALUES (10, 'buildset id 1 it''s ✓', 'outbox connection 1 it''s ✓', 'outbox project 1 it''s ✓', 10, 2147483001, '1111111111111111111111111111111111111111', 'outbox tag 1 it''s ✓', 'outbox marker 1 it''s ✓', 'outbox message 1 it''s ✓', 'outbox label 1 it''s ✓', 10, 'done', 'stale 1', 'transpor 1', 10, '2026-03-29 01:30:00.123456', 'outbox error 1 it''s ✓', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_outbox (id, buildset_id, connection, project, change_number, patchset, revision, tag, marker, message, label, value, state, stale, transport, tries, next_at, error, created_at, settled_at) VALUES (20, 'buildset id 2 it''s ✓', 'outbox connection 2 it''s ✓', 'outbox project 2 it''s ✓', 20, 2147483002, '2222222222222222222222222222222222222222', 'outbox tag 2 it''s ✓', 'outbox marker 2 it''s ✓', 'outbox message 2 it''s ✓', NULL, NULL, 'queued', 'stale 2', 'transpor 2', 20, '2026-07-07 01:30:00.123456', 'outbox error 2 it''s ✓', '2026-07-07 01:30:00.123456', NULL);

SELECT setval(pg_get_serial_sequence('ci_outbox', 'id'), 20);

INSERT INTO ci_attempt (id, build_id, number, kind, state, phase, result, error, hint, node, token, grade, hypervisor, facts, tip, tree, base_tree, exit_status, interrupted, dependency, started_at, leased_at, suite_started_at, finished_at) VALUES ('attempt id 1 it''s ✓', 'build id 1 it''s ✓', 10, 'kind 1', 'done', 'phase 1', 'result 1', 'attempt error 1 it''s ✓', 'attempt hint 1 it''s ✓', 'attempt node 1 it''s ✓', 10, 'grade 1', 'attempt hypervisor 1 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [1, null]}', '1111111111111111111111111111111111111111', '1111111111111111111111111111111111111111', '1111111111111111111111111111111111111111', 10, true, true, '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456', '2026-03-29 01:30:00.123456');

INSERT INTO ci_attempt (id, build_id, number, kind, state, phase, result, error, hint, node, token, grade, hypervisor, facts, tip, tree, base_tree, exit_status, interrupted, dependency, started_at, leased_at, suite_started_at, finished_at) VALUES ('attempt id 2 it''s ✓', 'build id 2 it''s ✓', 20, 'kind 2', 'queued', 'phase 2', NULL, 'attempt error 2 it''s ✓', 'attempt hint 2 it''s ✓', NULL, NULL, 'grade 2', 'attempt hypervisor 2 it''s ✓', '{"text": "it''s \u2713 \u00fc", "list": [2, null]}', NULL, NULL, NULL, NULL, false, false, '2026-07-07 01:30:00.123456', NULL, NULL, NULL);

INSERT INTO ci_outcome (id, attempt_id, test_id, status, duration_s, message, details) VALUES (10, 'attempt id 1 it''s ✓', 'outcome test_id 1 it''s ✓', 'status 1', 1.5, 'outcome message 1 it''s ✓', 'outcome details 1 it''s ✓');

INSERT INTO ci_outcome (id, attempt_id, test_id, status, duration_s, message, details) VALUES (20, 'attempt id 2 it''s ✓', 'outcome test_id 2 it''s ✓', 'status 2', 3.0, 'outcome message 2 it''s ✓', 'outcome details 2 it''s ✓');

SELECT setval(pg_get_serial_sequence('ci_outcome', 'id'), 20);
